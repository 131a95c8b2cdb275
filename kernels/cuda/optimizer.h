// The optimizer's ops on CUDA: the contracts and the bits of kernels/optimizer.h, on device memory.
// The host waits for the sums.
#pragma once
#include "kernels/optimizer.h"

namespace fucina::cuda {

void adamw(const Exec& exec, const AdamW& step, const Tensor& w, const Tensor& grad,
           const Tensor& m, const Tensor& v, PackedCopies* copies);
ExactSum sum_of_squares(const Exec& exec, const Tensor& x, int64_t chunks);
ExactSum exact_sum(const Exec& exec, const Tensor& x);

}  // namespace fucina::cuda
