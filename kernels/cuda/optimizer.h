// AdamW and the sum of squares on CUDA: the contracts of kernels/optimizer.h, on device memory, in
// stream order. Every operation is IEEE's and in the reference's order: the same bits, but for
// denormals, which the CPU makes zero.
#pragma once
#include "kernels/cuda/stream.h"
#include "kernels/optimizer.h"

namespace fucina::cuda {

void adamw(const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m, const Tensor& v,
           Stream stream);

// The blocks of ops::sum_of_squares, and their sums, out f64 [blocks]; those add up without
// rounding (ExactSum) where they are read.
int64_t square_blocks(const Tensor& x, int64_t chunks);
void sum_of_squares(const Tensor& x, int64_t chunks, const Tensor& sums, Stream stream);

}  // namespace fucina::cuda
