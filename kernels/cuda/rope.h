// Rotary position embedding on CUDA: the contract and the bits of ops::rope, on device memory, in
// stream order. Positions must lie in the table; they are not checked.
#pragma once
#include "kernels/rope.h"

namespace fucina::cuda {

void rope(const Exec& exec, const Tensor& x, int64_t heads, const Tensor& positions,
          const RopeTable& table, bool inverse);

}  // namespace fucina::cuda
