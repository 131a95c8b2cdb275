// AdamW, the gradient norm and casts on the CPU: bound by memory bandwidth.
#include "kernels/optimizer.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

constexpr int64_t kRange = 16384;  // elements of one unit of work
constexpr int64_t kSquares = 1 << 17, kSquaresBlock = 512;

// Element `begin` of a contiguous tensor.
Cells from(const Tensor& x, int64_t begin) {
    return {x.raw() + begin * size_of(x.dtype()), x.dtype() == DType::bf16};
}

// body(from, to, count) over contiguous runs: ranges of the whole, or rows where one is a view.
template <class Body>
void for_each_run(const Tensor& x, const Tensor& y, const Body& body) {
    if (x.contiguous() && y.contiguous()) {
        parallel_ranges(x.size(), kRange, kRange, [&](int64_t begin, int64_t end) {
            body(from(x, begin), from(y, begin), end - begin);
        });
    } else {
        parallel_for(x.rows(), x.row_size(),
                     [&](int64_t i) { body(cells(x, i), cells(y, i), x.row_size()); });
    }
}

}  // namespace

void adamw(const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m, const Tensor& v,
           PackedCopies* copies) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    const auto update = [&](int64_t begin, int64_t end) {
        kernels.adamw({.w = w.data<float>() + begin,
                       .grad = grad.data<float>() + begin,
                       .m = from(m, begin),
                       .v = from(v, begin),
                       .count = end - begin,
                       .grad_scale = step.grad_scale,
                       .decay = step.decay(),
                       .rate = step.rate(),
                       .inverse_root = step.inverse_root(),
                       .eps = step.eps,
                       .beta1 = step.beta1,
                       .beta2 = step.beta2});
    };
    if (copies != nullptr)
        repack(w, *copies, update);
    else
        parallel_ranges(w.size(), kRange, kRange, update);
}

ExactSum sum_of_squares(const Tensor& x, int64_t chunks) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    if (x.size() == 0) return {};
    const int64_t part = x.dim(x.rank() - 1) / chunks, parts = x.size() / part;
    const int64_t at_once = std::max<int64_t>(1, kSquares / part);
    std::vector<ExactSum> sums(static_cast<size_t>((parts + at_once - 1) / at_once));
    parallel_ranges(parts, at_once, at_once * part, [&](int64_t first, int64_t last) {
        ExactSum& sum = sums[static_cast<size_t>(first / at_once)];
        for (int64_t i = first * part; i < last * part; i += part)
            for (int64_t begin = 0; begin < part; begin += kSquaresBlock)
                sum.add(kernels.sum_of_squares(x.data<float>() + i + begin,
                                               std::min(kSquaresBlock, part - begin)));
    });
    ExactSum total;
    for (const ExactSum& sum : sums) total.add(sum);
    return total;
}

ExactSum exact_sum(const Tensor& x) {
    ExactSum sum;
    for (int64_t i = 0; i < x.size(); ++i) sum.add(double{x.data<float>()[i]});
    return sum;
}

void add_in_place(const Tensor& y, const Tensor& x) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    for_each_run(x, y, [&](Cells from, Cells to, int64_t count) {
        kernels.add(from, static_cast<float*>(to.data), count);
    });
}

void cast(const Tensor& x, const Tensor& out) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    for_each_run(x, out, kernels.cast);
}

}  // namespace fucina::cpu
