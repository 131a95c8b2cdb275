// Sums of fp32 values as integers: each value is rounded to a multiple of 2^-54 once, and the sum
// to fp32 once. Between those nothing is, so any order gives the same bits.
#pragma once
#include "kernels/exec.h"

namespace fucina {

constexpr float kGridRange = 512;  // a sum must be less: 2^63 steps of the grid

namespace ops {

// sum, i64, gets or adds x, fp32 of as many elements, both contiguous; to nearest, ties to even.
// False if any |x| is not less than `bound`, at most kGridRange, or is NaN: the sum is rubbish
// then. n values below kGridRange / n never leave the range.
bool set_on_grid(const Exec& exec, const Tensor& sum, const Tensor& x, float bound);
bool add_on_grid(const Exec& exec, const Tensor& sum, const Tensor& x, float bound);

// y += x, i64, contiguous.
void add_integers(const Exec& exec, const Tensor& y, const Tensor& x);

// out, fp32, = sum, i64, contiguous and of as many elements.
void round_from_grid(const Exec& exec, const Tensor& sum, const Tensor& out);

}  // namespace ops
}  // namespace fucina
