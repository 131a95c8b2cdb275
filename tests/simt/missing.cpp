// Ops that are not on CUDA yet.
#include "kernels/cuda/attention.h"
#define W __attribute__((weak))
namespace fucina::cuda {
W void attention(const Exec&, const AttentionShape&, const Tensor&, const AttentionKv&, const Tensor&, const Tensor&){FUCINA_CHECK(false,"attention is not on CUDA yet");}
W void attention_backward(const Exec&, const AttentionShape&, const ops::AttentionBackward&){FUCINA_CHECK(false,"attention_backward is not on CUDA yet");}
W void latent_attention(const Exec&, const ops::LatentAttention&){FUCINA_CHECK(false,"latent_attention is not on CUDA yet");}
}
