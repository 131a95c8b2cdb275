// The ops of kernels/attention.h on CPU; contracts are there.
#pragma once
#include "kernels/attention.h"

namespace fucina::cpu {

void attention(const AttentionShape& shape, const Tensor& q, const AttentionKv& kv,
               const Tensor& out, const Tensor& lse);
void attention_backward(const AttentionShape& shape, const ops::AttentionBackward& io);

// Bytes that a thread of attention works in for a document of that length, and that all threads of
// attention_backward do.
int64_t attention_scratch(const AttentionShape& shape, int64_t rows, DType type);
int64_t attention_backward_scratch(const AttentionShape& shape, DType type);

void latent_attention(const ops::LatentAttention& io);

}  // namespace fucina::cpu
