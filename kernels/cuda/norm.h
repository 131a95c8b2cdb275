// RMSNorm on CUDA: the contracts of kernels/norm.h, on device memory, in stream order.
#pragma once
#include "kernels/norm.h"

namespace fucina::cuda {

void rmsnorm(const Exec& exec, const ops::RmsNorm& io);
void rmsnorm_backward(const Exec& exec, const ops::RmsNormBackward& io);

}  // namespace fucina::cuda
