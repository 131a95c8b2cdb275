#include "model/layers/attention_mla.h"

#include <algorithm>
#include <cmath>

#include "kernels/gemm.h"
#include "kernels/rope.h"

namespace fucina {

namespace {

constexpr double kLatentEps = 1e-6;  // whatever rms_norm_eps is

}  // namespace

AttentionMla::AttentionMla(ParameterSet& set, const std::string& prefix, const ModelSpec& spec)
    : mla_(spec.attention),
      heads_(set.own(mla_.heads)),
      scale_(static_cast<float>(yarn_softmax_scale(spec.rope.yarn) /
                                std::sqrt(static_cast<double>(mla_.qk_dim())))),
      q_width_(mla_.q_lora_rank > 0 ? mla_.q_lora_rank : mla_.heads * mla_.qk_dim()),
      down_(set.matrix(prefix + "qkv_down",
                       {q_width_ + mla_.kv_lora_rank + mla_.rope_dim, spec.hidden_size})),
      kv_norm_(set, prefix + "kv_norm", mla_.kv_lora_rank, kLatentEps),
      kv_up_(set.matrix(prefix + "kv_up",
                        {mla_.heads * (mla_.nope_dim + mla_.v_dim), mla_.kv_lora_rank},
                        {.tensor = 0})),
      out_(set.matrix(prefix + "out", {spec.hidden_size, mla_.heads * mla_.v_dim}, {.tensor = 1})) {
    kv_up_->packed->dgrad.cut = out_->packed->forward.cut = set.cut();
    kv_up_->reads_value = true;  // decoding
    if (mla_.q_lora_rank == 0) return;
    q_norm_.emplace(set, prefix + "q_norm", mla_.q_lora_rank, kLatentEps);
    q_up_ =
        set.matrix(prefix + "q_up", {mla_.heads * mla_.qk_dim(), mla_.q_lora_rank}, {.tensor = 0});
    q_up_->packed->dgrad.cut = set.cut();
}

AttentionShape AttentionMla::shape(const PassContext& context) const {
    const int64_t ranks = mla_.heads / heads_;
    return {.heads = heads_,
            .kv_heads = heads_,
            .d_qk = mla_.qk_dim(),
            .d_shared = mla_.rope_dim,
            .d_v = mla_.v_dim,
            .scale = scale_,
            .chunks = std::max<int64_t>(context.chunks / ranks, 1),
            .cu_seqlens = context.cu_seqlens};
}

// kv: per head nope | v. k_own begins at column 0 of a head, v after nope columns.
AttentionKv AttentionMla::kv_views(const Tensor& kv, const Tensor& k_rope) const {
    const int64_t head = mla_.nope_dim + mla_.v_dim;
    return {.k_own = kv,
            .k_shared = k_rope,
            .v = kv.columns(mla_.nope_dim, kv.dim(1)),
            .k_head_stride = head,
            .v_head_stride = head};
}

void AttentionMla::compute_down(const PassContext& context, Saved& saved) const {
    saved.down = context.activations(saved.x.rows(), down_->box.extent[0]);
    ops::linear(context.exec, saved.x, down_->packed->forward, saved.down);
    ops::rope(context.exec, rope_columns(saved.down), 1, context.stream_positions(), *context.rope,
              false);
    if (!q_up_)
        ops::rope(context.exec, q_columns(saved.down), mla_.heads, context.positions, *context.rope,
                  false);
    saved.k_rope = context.whole(rope_columns(saved.down));
}

void AttentionMla::norm_latents(const PassContext& context, Saved& saved) const {
    if (q_up_)
        saved.q_latent =
            context.whole(q_norm_->forward(context, q_columns(saved.down), saved.q_rstd));
    saved.c = context.whole(kv_norm_.forward(context, c_columns(saved.down), saved.c_rstd));
}

void AttentionMla::compute_q(const PassContext& context, Saved& saved) const {
    if (!q_up_) {
        saved.q = q_columns(saved.down);  // rotated by compute_down
        return;
    }
    saved.q = context.activations(context.tokens, q_up_->box.extent[0]);
    ops::linear(context.exec, saved.q_latent, q_up_->packed->forward, saved.q);
    ops::rope(context.exec, saved.q, heads_, context.positions, *context.rope, false);
}

void AttentionMla::compute_kv(const PassContext& context, Saved& saved) const {
    saved.kv = context.activations(context.tokens, kv_up_->box.extent[0]);
    ops::linear(context.exec, saved.c, kv_up_->packed->forward, saved.kv);
}

AttentionMla::Out AttentionMla::forward(const PassContext& context, const In& in,
                                        Saved& saved) const {
    saved.x = in.x;
    compute_down(context, saved);
    norm_latents(context, saved);
    compute_q(context, saved);
    compute_kv(context, saved);
    if (!context.keeps) drop(RecomputeKind::norm, saved);
    saved.o = context.activations(context.tokens, heads_ * mla_.v_dim);
    if (context.keeps) saved.lse = context.exec.empty({heads_, context.tokens}, DType::f32);
    ops::attention(context.exec, shape(context), saved.q, kv_views(saved.kv, saved.k_rope), saved.o,
                   saved.lse);
    if (!context.keeps) saved = {.o = saved.o};
    return {context.stream(context.sum_linear(saved.o, out_->packed->forward))};
}

void AttentionMla::drop(RecomputeKind kind, Saved& saved) const {
    if (kind == RecomputeKind::none) return;
    saved.x = saved.q_latent = saved.c = Tensor();
    if (kind == RecomputeKind::norm) return;
    saved.q = saved.kv = Tensor();
}

AttentionMla::In AttentionMla::backward(const PassContext& context, const Out& grad,
                                        Saved& saved) const {
    const int64_t tokens = context.tokens;
    if (!saved.c.defined()) norm_latents(context, saved);
    if (!saved.q.defined()) compute_q(context, saved);
    if (!saved.kv.defined()) compute_kv(context, saved);

    Tensor d_o = context.activations(tokens, saved.o.dim(1));
    {
        const Tensor dy = context.whole(grad.y);
        ops::linear(context.exec, dy, out_->packed->dgrad, d_o);
        context.weight_grads->add(matrix_grad(out_, dy, saved.o, context.nodes));
    }

    Tensor d_down = context.activations(saved.down.rows(), saved.down.dim(1));
    Tensor d_q = q_up_ ? context.activations(tokens, saved.q.dim(1)) : q_columns(d_down);
    Tensor d_kv = context.activations(tokens, saved.kv.dim(1));
    // Of the key that all heads share, each rank has its heads' part.
    Tensor d_rope = rope_columns(d_down);
    if (context.shares) d_rope = context.exec.empty({tokens, mla_.rope_dim}, DType::f32);
    ops::attention_backward(context.exec, shape(context),
                            {.d_out = d_o,
                             .out = saved.o,
                             .lse = saved.lse,
                             .q = saved.q,
                             .kv = kv_views(saved.kv, saved.k_rope),
                             .dq = d_q,
                             .dkv = kv_views(d_kv, d_rope)});
    saved.q = saved.kv = saved.o = saved.lse = saved.k_rope = d_o = Tensor();
    if (context.shares)
        context.exec.copy(context.stream(context.shares->sum(d_rope, context.dtype)),
                          rope_columns(d_down));
    d_rope = Tensor();
    ops::rope(context.exec, d_q, heads_, context.positions, *context.rope, true);
    ops::rope(context.exec, rope_columns(d_down), 1, context.stream_positions(), *context.rope,
              true);

    if (q_up_) {
        context.weight_grads->add(matrix_grad(q_up_, d_q, saved.q_latent, context.nodes));
        const Tensor d_latent = context.stream(context.sum_linear(d_q, q_up_->packed->dgrad));
        q_norm_->backward(context, d_latent, q_columns(saved.down), saved.q_rstd, {},
                          q_columns(d_down));
    }
    context.weight_grads->add(matrix_grad(kv_up_, d_kv, saved.c, context.nodes));
    const Tensor d_c = context.stream(context.sum_linear(d_kv, kv_up_->packed->dgrad));
    kv_norm_.backward(context, d_c, c_columns(saved.down), saved.c_rstd, {}, c_columns(d_down));

    context.weight_grads->add(matrix_grad(down_, d_down, saved.x, context.chunk_nodes));
    In in{context.activations(saved.x.rows(), saved.x.dim(1))};
    ops::linear(context.exec, d_down, down_->packed->dgrad, in.x);
    saved = Saved();
    return in;
}

}  // namespace fucina
