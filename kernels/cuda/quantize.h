// FP8 quantisation on CUDA: the contract of kernels/quantize.h, on device memory, in stream order.
// x is read once for both outputs.
#pragma once
#include "kernels/exec.h"
#include "kernels/quantize.h"

namespace fucina::cuda {

// K must be a multiple of 16, and x, values and their rows aligned to 16 bytes.
void quantize(const Exec& exec, const Quantize& io);

}  // namespace fucina::cuda
