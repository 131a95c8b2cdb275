// The oracle: every op of kernels/*.h once more, in plain loops of fixed order, with the same
// signatures and contracts. Complete on every CPU. Its PackedWeight is its own (fp32 [groups, k, n]
// rounded to the compute type; of FP8 E4M3 values and [groups, n, k] scales) and must come from
// reference::pack.
#pragma once
#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/moe.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/rope.h"

namespace fucina::reference {

PackedWeight pack(const Tensor& w, PackKind kind, DType compute, PackedWeight previous = {});
void linear(const Tensor& x, const PackedWeight& w, const Tensor& y);
void linear_wgrad(const Tensor& dy, const Tensor& x, const LeafTree& tree, const Tensor& dw,
                  bool fp8 = false);
void grouped_linear(const Tensor& x, const RowGroups& rows, const PackedWeight& w, const Tensor& y);
void grouped_linear_wgrad(const ops::GroupedWgrad& in, const Tensor& dw);
void gate_up_swiglu(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h);
void down_swiglu_backward(const ops::DownBackward& io);

void rmsnorm(const Tensor& x, const Tensor& w, float eps, const Tensor& y, const Tensor& rstd);
void add_rmsnorm(const Tensor& x, const Tensor& residual, const Tensor& sum, const Tensor& w,
                 float eps, const Tensor& y, const Tensor& rstd);
void rmsnorm_backward(const ops::RmsNormBackward& io);

void rope(const Tensor& x, int64_t heads, const Tensor& positions, const RopeTable& table,
          bool inverse);

void attention(const AttentionShape& shape, const Tensor& q, const AttentionKv& kv,
               const Tensor& out, const Tensor& lse);
void attention_backward(const AttentionShape& shape, const ops::AttentionBackward& io);
void latent_attention(const ops::LatentAttention& io);

void router(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights);
void router_backward(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                     const Tensor& weights, const Tensor& d_weights, const Tensor& d_scores,
                     const Tensor& d_logits);
ExactSum balance_loss(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                      const Tensor& sequence_offsets, float scale, const Tensor& d_scores);
void update_router_bias(std::span<const int64_t> loads, float rate, const Tensor& bias);
TokenMap make_token_map(const Tensor& indices, int64_t experts, const Tensor& grain_offsets,
                        const Tensor& room = {});
void count_choices(const Tensor& indices, const Tensor& grain_offsets, const Tensor& out);
void combine(const ops::Combine& io, const TokenMap& map);
void add(const Tensor& a, const Tensor& b, const Tensor& out);
void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out);
void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& out);

void embedding(const Tensor& ids, const Tensor& table, const Tensor& out);
void embedding_backward(const Tensor& ids, const Tensor& d_out, const LeafTree& tree,
                        const Tensor& d_table);
void head_loss(const ops::HeadLoss& io);

void adamw(const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m,
           const Tensor& v);
ExactSum sum_of_squares(const Tensor& x, int64_t chunks = 1);
void add_in_place(const Tensor& y, const Tensor& x);
void cast(const Tensor& x, const Tensor& out);

}  // namespace fucina::reference
