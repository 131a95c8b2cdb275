// AdamW, the gradient norm and casts on the CPU: bound by memory bandwidth.
#include "kernels/optimizer.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/row_ops.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

constexpr int64_t kRange = 16384;    // elements of one unit of work
constexpr int64_t kNormBlock = 512;  // elements of one chain of the norm

// Element `begin` of a contiguous tensor.
Cells from(const Tensor& x, int64_t begin) {
    return {x.raw() + begin * size_of(x.dtype()), x.dtype() == DType::bf16};
}

// Sums of `blocks` <= 8 consecutive blocks of squares, each one chain; together, so that the
// additions of different chains overlap.
void block_sums(const float* x, int64_t blocks, double* sums) {
    double chain[8] = {};
    if (blocks == 8) {
        for (int64_t i = 0; i < kNormBlock; ++i)
            for (int64_t b = 0; b < 8; ++b) {
                const double value = x[b * kNormBlock + i];
                chain[b] += value * value;
            }
    } else {
        for (int64_t b = 0; b < blocks; ++b)
            for (int64_t i = 0; i < kNormBlock; ++i) {
                const double value = x[b * kNormBlock + i];
                chain[b] += value * value;
            }
    }
    for (int64_t b = 0; b < blocks; ++b) sums[b] = chain[b];
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

void adamw(const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m,
           const Tensor& v) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    parallel_ranges(w.size(), kRange, kRange, [&](int64_t begin, int64_t end) {
        kernels.adamw({.w = w.data<float>() + begin,
                       .grad = grad.data<float>() + begin,
                       .m = from(m, begin),
                       .v = from(v, begin),
                       .count = end - begin,
                       .grad_scale = step.grad_scale,
                       .decay = 1.0f - step.learning_rate * step.weight_decay,
                       .rate = step.learning_rate / step.bias_correction1,
                       .root = std::sqrt(step.bias_correction2),
                       .eps = step.eps,
                       .beta1 = step.beta1,
                       .beta2 = step.beta2});
    });
}

double sum_of_squares(const Tensor& x) {
    const float* values = x.data<float>();
    const int64_t whole = x.size() / kNormBlock;
    std::vector<double> sums(static_cast<size_t>(whole));
    parallel_ranges(whole, 8, 8 * kNormBlock, [&](int64_t begin, int64_t end) {
        block_sums(values + begin * kNormBlock, end - begin, sums.data() + begin);
    });
    double total = 0, last = 0;
    for (const double block : sums) total += block;
    for (int64_t i = whole * kNormBlock; i < x.size(); ++i) last += double{values[i]} * values[i];
    return total + last;
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
