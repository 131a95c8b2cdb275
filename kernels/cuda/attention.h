// Attention on CUDA: the contracts of kernels/attention.h, on device memory, in stream order.
#pragma once
#include "kernels/attention.h"

namespace fucina::cuda {

void attention(const Exec& exec, const AttentionShape& shape, const Tensor& q,
               const AttentionKv& kv, const Tensor& out, const Tensor& lse);
void attention_backward(const Exec& exec, const AttentionShape& shape,
                        const ops::AttentionBackward& io);
void latent_attention(const Exec& exec, const ops::LatentAttention& io);

}  // namespace fucina::cuda
