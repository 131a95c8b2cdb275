#include "model/activation_memory.h"

#include <algorithm>

#include "kernels/embedding.h"

namespace fucina {

namespace {

// Elements a token of one block, by what computes them.
struct BlockElements {
    int64_t attention = 0, norms = 0, up = 0, feed_forward = 0;
    int64_t all() const { return attention + norms + up + feed_forward; }
    int64_t dropped(RecomputeKind kind) const {
        switch (kind) {
            case RecomputeKind::norm:
                return norms;
            case RecomputeKind::mla_up:
                return norms + up;
            case RecomputeKind::block:
                return all();
            default:
                return 0;
        }
    }
};

BlockElements count(const ModelSpec& spec, bool is_moe) {
    const MlaSpec& mla = spec.attention;
    const int64_t d = spec.hidden_size, q = mla.heads * mla.qk_dim();
    const bool q_lora = mla.q_lora_rank > 0;
    BlockElements block;
    block.norms = 2 * d + mla.q_lora_rank + mla.kv_lora_rank;
    block.up = mla.heads * (mla.nope_dim + mla.v_dim) + (q_lora ? q : 0);
    block.attention = 2 * d + (q_lora ? mla.q_lora_rank : q) + mla.kv_lora_rank + mla.rope_dim +
                      mla.heads * mla.v_dim;
    block.feed_forward =
        2 * (is_moe ? spec.moe.router.top_k * spec.moe.expert_width + spec.moe.shared_width
                    : spec.dense_width);
    return block;
}

}  // namespace

int64_t activation_bytes(const ModelSpec& spec, DType compute, RecomputeKind kind, int64_t tokens) {
    const MlaSpec& mla = spec.attention;
    const RouterConfig& router = spec.moe.router;
    const int64_t element = size_of(compute), d = spec.hidden_size;
    const int64_t lse = 4 * mla.heads;                               // bytes
    const int64_t routing = 4 * router.experts + 24 * router.top_k;  // bytes: scores and maps
    int64_t saved = 0;                                               // bytes a token, all layers
    for (int64_t layer = 0; layer < spec.layers; ++layer) {
        const BlockElements block = count(spec, spec.is_moe(layer));
        saved += (block.all() - block.dropped(kind)) * element;
        if (kind == RecomputeKind::block)
            saved += d * element;
        else
            saved += lse + (spec.is_moe(layer) ? routing : 0);
    }
    // The widest moment: all is saved, the last block is whole again and holds gradients too.
    const bool moe_last = spec.is_moe(spec.layers - 1);
    const BlockElements last = count(spec, moe_last);
    const int64_t width = moe_last ? router.top_k * spec.moe.expert_width : spec.dense_width;
    const int64_t feed_forward_grads =
        std::max(3 * width, width + (moe_last ? router.top_k * d : 0));
    const int64_t attention_grads = mla.q_lora_rank + mla.kv_lora_rank + mla.rope_dim +
                                    mla.heads * (mla.qk_dim() + mla.nope_dim + 2 * mla.v_dim);
    const int64_t widest =
        last.dropped(kind) + std::max(feed_forward_grads, attention_grads) + 4 * d;
    // Or before that the head's logits and their gradient.
    const int64_t logits = std::min(kLogitsBytes, tokens * spec.vocab_size * 4);
    const int64_t head = logits + logits / 4 * element + tokens * 3 * d * element;
    return tokens * saved + std::max(tokens * widest * element, head);
}

}  // namespace fucina
