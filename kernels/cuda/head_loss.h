// The head's loss on CUDA: the contract of kernels/embedding.h.
#pragma once
#include "kernels/embedding.h"

namespace fucina::cuda {

void head_loss(const Exec& exec, const ops::HeadLoss& io);

}  // namespace fucina::cuda
