// What head_loss of kernels/embedding.h needs of the CPU beside products.
#pragma once
#include "kernels/embedding.h"

namespace fucina::cpu {

int64_t head_loss_rows(int64_t rows, int64_t vocab, DType compute);

// Losses of rows `first` and on, of whose logits, fp32 [rows, V], these are; their gradient goes to
// d_logits [rows, V] of the compute type, unless it is undefined.
void row_losses(const ops::HeadLoss& io, int64_t first, const Tensor& logits,
                const Tensor& d_logits);

}  // namespace fucina::cpu
