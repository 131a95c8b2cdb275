// head_loss of kernels/embedding.h on CUDA, with the CPU's bits where its products have the order
// `fma`. A label outside the vocabulary makes the loss NaN: the host sees no label.
#pragma once
#include "kernels/embedding.h"

namespace fucina::cuda {

void head_loss(const Exec& exec, const ops::HeadLoss& io);

}  // namespace fucina::cuda
