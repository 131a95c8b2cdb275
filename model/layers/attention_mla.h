// AttentionMla: DeepSeek's multi-head latent attention (arXiv 2405.04434 §2.1), with or without a
// query latent.
//
//   down  [q latent | kv latent | k rope] = x W_downᵀ (without a query latent its first columns are
//   q itself) up    q = norm(q latent) W_qᵀ, per head nope | rope; [k nope | v] per head = norm(kv
//   latent) W_kvᵀ core  causal softmax attention within each document, k rope shared by all heads
//   out   y = o W_outᵀ
#pragma once
#include <optional>
#include <string>

#include "kernels/attention.h"
#include "model/latent_cache.h"
#include "model/layers/norm.h"
#include "model/model_spec.h"

namespace fucina {

class AttentionMla {
  public:
    struct In {
        Tensor x;  // [T, D], normed
    };
    struct Out {
        Tensor y;  // [T, D]
    };
    // Stream rows (model/pass_context.h) down to the latents; from there whole ones, of H heads,
    // those that are here.
    struct Saved {
        Tensor x;                 // [T, D]
        Tensor down;              // [T, q | kv_lora_rank | rope_dim], rope part rotated
        Tensor q_latent, q_rstd;  // [T, q_lora_rank] normed, whole; q_rstd of stream rows
        Tensor c, c_rstd;         // [T, kv_lora_rank] normed, whole; c_rstd of stream rows
        Tensor k_rope;            // [T, rope_dim]
        Tensor q;       // [T, H*(nope+rope)] rotated; a view of down without a query latent
        Tensor kv;      // [T, H*(nope+v)]
        Tensor o, lse;  // [T, H*v], fp32 [H, T]
    };

    AttentionMla(ParameterSet& set, const std::string& prefix, const ModelSpec& spec);

    Out forward(const PassContext& context, const In& in, Saved& saved) const;
    In backward(const PassContext& context, const Out& grad, Saved& saved) const;
    // Lets go of what `kind` computes again. x is the caller's to restore before backward.
    void drop(RecomputeKind kind, Saved& saved) const;

    // Decoding: the tokens of x, text by text, follow those in the texts' caches, or begin all of
    // the texts. Latents in a cache are never expanded to heads: W_kv is folded into q and o
    // instead (arXiv 2405.04434 §2.1.2).
    Out extend(const PassContext& context, const In& in, std::span<const Continuation> texts,
               size_t layer) const;

  private:
    void compute_down(const PassContext& context, Saved& saved) const;
    void norm_latents(const PassContext& context, Saved& saved) const;
    void compute_q(const PassContext& context, Saved& saved) const;
    void compute_kv(const PassContext& context, Saved& saved) const;
    AttentionShape shape(const PassContext& context) const;
    AttentionKv kv_views(const Tensor& kv, const Tensor& k_rope) const;
    void remember(const PassContext& context, const Saved& saved,
                  std::span<const Continuation> texts, size_t layer) const;
    void attend_to_caches(const PassContext& context, const Saved& saved,
                          std::span<const Continuation> texts, size_t layer) const;
    Tensor q_columns(const Tensor& down) const { return down.columns(0, q_width_); }
    Tensor c_columns(const Tensor& down) const {
        return down.columns(q_width_, q_width_ + mla_.kv_lora_rank);
    }
    Tensor rope_columns(const Tensor& down) const {
        return down.columns(q_width_ + mla_.kv_lora_rank, down.dim(1));
    }

    MlaSpec mla_;
    int64_t heads_;    // here
    float scale_;      // of q·k
    int64_t q_width_;  // columns of down before the kv latent
    Parameter* down_;
    std::optional<Norm> q_norm_;
    Parameter* q_up_ = nullptr;
    Norm kv_norm_;
    Parameter* kv_up_;
    Parameter* out_;
};

}  // namespace fucina
