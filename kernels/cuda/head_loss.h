// head_loss of kernels/embedding.h on CUDA, with the CPU's bits where its products have the order
// `fma`. A label outside the vocabulary makes the loss NaN: the host sees no label.
#pragma once
#include "kernels/embedding.h"

namespace fucina::cuda {

// rows: whose logits exist at a time; 0: as many as ops::head_loss_rows says.
void head_loss(const Exec& exec, const ops::HeadLoss& io, int64_t rows = 0);

}  // namespace fucina::cuda
