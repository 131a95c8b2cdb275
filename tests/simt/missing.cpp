// Ops that are not on CUDA yet.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/head_loss.h"
#define W __attribute__((weak))
namespace fucina::cuda {
W void attention(const Exec&, const AttentionShape&, const Tensor&, const AttentionKv&, const Tensor&, const Tensor&){FUCINA_CHECK(false,"attention is not on CUDA yet");}
W void attention_backward(const Exec&, const AttentionShape&, const ops::AttentionBackward&){FUCINA_CHECK(false,"attention_backward is not on CUDA yet");}
W void latent_attention(const Exec&, const ops::LatentAttention&){FUCINA_CHECK(false,"latent_attention is not on CUDA yet");}
W PackedWeight pack(const Exec&, const Tensor&, PackKind, DType, PackedWeight){FUCINA_CHECK(false,"pack is not on CUDA yet"); return {};}
W void grouped_linear(const Exec&, const Tensor&, const RowGroups&, const PackedWeight&, const Tensor&){FUCINA_CHECK(false,"grouped_linear is not on CUDA yet");}
W void gate_up_swiglu(const Exec&, const Tensor&, const RowGroups&, const PackedWeight&, const Tensor&, const Tensor&){FUCINA_CHECK(false,"gate_up_swiglu is not on CUDA yet");}
W void down_swiglu_backward(const Exec&, const ops::DownBackward&){FUCINA_CHECK(false,"down_swiglu_backward is not on CUDA yet");}
W void linear_wgrad(const Exec&, const Tensor&, const Tensor&, const LeafTree&, const Tensor&){FUCINA_CHECK(false,"linear_wgrad is not on CUDA yet");}
W void grouped_linear_wgrad(const Exec&, const ops::GroupedWgrad&, const Tensor&){FUCINA_CHECK(false,"grouped_linear_wgrad is not on CUDA yet");}
W void head_loss(const Exec&, const ops::HeadLoss&){FUCINA_CHECK(false,"head_loss is not on CUDA yet");}
}
