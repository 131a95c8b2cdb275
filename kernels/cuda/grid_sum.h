// Sums on a grid on CUDA: the contracts and the bits of kernels/grid_sum.h. The host waits to learn
// whether values were inside.
#pragma once
#include "kernels/grid_sum.h"

namespace fucina::cuda {

bool to_grid(const Exec& exec, bool adds, const Tensor& sum, const Tensor& x, float bound);
void add_integers(const Exec& exec, const Tensor& y, const Tensor& x);
void round_from_grid(const Exec& exec, const Tensor& sum, const Tensor& out);

}  // namespace fucina::cuda
