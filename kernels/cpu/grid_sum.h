// The ops of kernels/grid_sum.h on CPU; contracts are there.
#pragma once
#include "kernels/tensor.h"

namespace fucina::cpu {

bool to_grid(bool adds, const Tensor& sum, const Tensor& x, float bound);
void add_integers(const Tensor& y, const Tensor& x);
void round_from_grid(const Tensor& sum, const Tensor& out);

}  // namespace fucina::cpu
