#include "kernels/grid_sum.h"

#include "kernels/cpu/grid_sum.h"
#include "kernels/cuda/grid_sum.h"

namespace fucina::ops {
namespace {

void check(const Tensor& integers, const Tensor& other, DType type) {
    FUCINA_CHECK(integers.dtype() == DType::i64 && other.dtype() == type &&
                     integers.size() == other.size() && integers.contiguous() && other.contiguous(),
                 "sum on a grid of ", integers.describe(), " and ", other.describe());
}

bool to_grid(const Exec& exec, bool adds, const Tensor& sum, const Tensor& x, float bound) {
    check(sum, x, DType::f32);
    FUCINA_CHECK(bound <= kGridRange, "values up to ", bound, " on a grid up to ", kGridRange);
    FUCINA_RUN(exec, to_grid, adds, sum, x, bound);
}

}  // namespace

bool set_on_grid(const Exec& exec, const Tensor& sum, const Tensor& x, float bound) {
    return to_grid(exec, false, sum, x, bound);
}

bool add_on_grid(const Exec& exec, const Tensor& sum, const Tensor& x, float bound) {
    return to_grid(exec, true, sum, x, bound);
}

void add_integers(const Exec& exec, const Tensor& y, const Tensor& x) {
    check(y, x, DType::i64);
    FUCINA_RUN(exec, add_integers, y, x);
}

void round_from_grid(const Exec& exec, const Tensor& sum, const Tensor& out) {
    check(sum, out, DType::f32);
    FUCINA_RUN(exec, round_from_grid, sum, out);
}

}  // namespace fucina::ops
