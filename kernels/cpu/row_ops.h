// The CPU's versions of the ops of norm.h, rope.h, moe.h, embedding.h and optimizer.h that have
// one. Same contracts; the callers (kernels/*.cpp) have checked shapes and dtypes.
#pragma once
#include "kernels/cpu/row_kernels.h"
#include "kernels/embedding.h"
#include "kernels/moe.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/rope.h"

namespace fucina::cpu {

// Row i of x from column `column`; null of an undefined tensor.
inline Cells cells(const Tensor& x, int64_t row, int64_t column = 0) {
    if (!x.defined()) return {nullptr, false};
    return {x.raw() + (row * x.row_stride() + column) * size_of(x.dtype()),
            x.dtype() == DType::bf16};
}

void rmsnorm(const ops::RmsNorm& io);
void rmsnorm_backward(const ops::RmsNormBackward& io);

void rope(const Tensor& x, int64_t heads, const Tensor& positions, const RopeTable& table,
          bool inverse);

void router(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights);
void router_backward(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                     const Tensor& d_weights, const Tensor& d_scores, const Tensor& d_logits);
ExactSum balance_loss(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                      const Tensor& sequence_offsets, float scale, const Tensor& d_scores);
void update_router_bias(std::span<const int64_t> loads, float rate, const Tensor& bias);
TokenMap make_token_map(const Tensor& indices, int64_t experts, const Tensor& grain_offsets,
                        const Tensor& room);
void count_choices(const Tensor& indices, const Tensor& grain_offsets, const Tensor& out);
void combine(const ops::Combine& io, const TokenMap& map);
void add(const Tensor& a, const Tensor& b, const Tensor& out);
void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out);
void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& out);

void embedding(const Tensor& ids, const Tensor& table, const Tensor& out);
void embedding_backward(const Tensor& ids, const Tensor& d_out, const LeafTree& tree,
                        const Tensor& d_table);

void adamw(const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m, const Tensor& v,
           PackedCopies* copies);
ExactSum sum_of_squares(const Tensor& x, int64_t chunks);
ExactSum exact_sum(const Tensor& x);
void add_in_place(const Tensor& y, const Tensor& x);
void cast(const Tensor& x, const Tensor& out);

}  // namespace fucina::cpu
