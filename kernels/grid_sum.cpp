#include "kernels/grid_sum.h"

#include <atomic>

#include "kernels/cpu/grid_kernels.h"
#include "kernels/error.h"
#include "kernels/parallel_for.h"

namespace fucina::ops {
namespace {

constexpr int64_t kRange = 16384;  // elements of one unit of work

void check(const Tensor& integers, const Tensor& other, DType type) {
    FUCINA_CHECK(integers.dtype() == DType::i64 && other.dtype() == type &&
                     integers.size() == other.size() && integers.contiguous() && other.contiguous(),
                 "sum on a grid of ", integers.describe(), " and ", other.describe());
}

bool to_grid(bool adds, const Tensor& sum, const Tensor& x, float bound) {
    check(sum, x, DType::f32);
    FUCINA_CHECK(bound <= kGridRange, "values up to ", bound, " on a grid up to ", kGridRange);
    const cpu::GridKernels& kernels = FUCINA_PICK(kGridKernels);
    std::atomic<bool> inside = true;
    parallel_ranges(x.size(), kRange, kRange, [&](int64_t begin, int64_t end) {
        const auto run = adds ? kernels.add : kernels.set;
        if (!run(x.data<float>() + begin, bound, end - begin, sum.data<int64_t>() + begin))
            inside = false;
    });
    return inside;
}

}  // namespace

bool set_on_grid(const Tensor& sum, const Tensor& x, float bound) {
    return to_grid(false, sum, x, bound);
}

bool add_on_grid(const Tensor& sum, const Tensor& x, float bound) {
    return to_grid(true, sum, x, bound);
}

void add_integers(const Tensor& y, const Tensor& x) {
    check(y, x, DType::i64);
    const cpu::GridKernels& kernels = FUCINA_PICK(kGridKernels);
    parallel_ranges(x.size(), kRange, kRange, [&](int64_t begin, int64_t end) {
        kernels.add_integers(x.data<int64_t>() + begin, end - begin, y.data<int64_t>() + begin);
    });
}

void round_from_grid(const Tensor& sum, const Tensor& out) {
    check(sum, out, DType::f32);
    const cpu::GridKernels& kernels = FUCINA_PICK(kGridKernels);
    parallel_ranges(sum.size(), kRange, kRange, [&](int64_t begin, int64_t end) {
        kernels.round(sum.data<int64_t>() + begin, end - begin, out.data<float>() + begin);
    });
}

}  // namespace fucina::ops
