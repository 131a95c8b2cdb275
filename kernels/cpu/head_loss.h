// head_loss of kernels/embedding.h on CPU; the contract is there.
#pragma once
#include "kernels/embedding.h"

namespace fucina::cpu {

int64_t head_loss_rows(int64_t rows, int64_t vocab, DType compute);
void head_loss(const ops::HeadLoss& io);

}  // namespace fucina::cpu
