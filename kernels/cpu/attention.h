// The ops of kernels/attention.h on CPU; contracts are there.
#pragma once
#include "kernels/attention.h"

namespace fucina::cpu {

void attention(const AttentionShape& shape, const Tensor& q, const AttentionKv& kv,
               const Tensor& out, const Tensor& lse);
void attention_backward(const AttentionShape& shape, const ops::AttentionBackward& io);
int64_t attention_scratch(const AttentionShape& shape, int64_t rows, DType type);
void latent_attention(const ops::LatentAttention& io);

}  // namespace fucina::cpu
