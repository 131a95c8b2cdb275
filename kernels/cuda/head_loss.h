// What head_loss of kernels/embedding.h needs of CUDA beside products: as kernels/cpu/head_loss.h,
// with its bits. A label outside the vocabulary makes the loss NaN, as the host sees no label.
#pragma once
#include "kernels/embedding.h"

namespace fucina::cuda {

void row_losses(const Exec& exec, const ops::HeadLoss& io, int64_t first, const Tensor& logits,
                const Tensor& d_logits);

}  // namespace fucina::cuda
