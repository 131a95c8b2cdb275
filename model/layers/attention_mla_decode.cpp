// Decoding with MLA: the tokens' latents join the cache, and attention works on latents, W_kv
// folded into q and o.
#include "kernels/gemm.h"
#include "model/layers/attention_mla.h"

namespace fucina {

void AttentionMla::remember(const PassContext& context, const Saved& saved,
                            std::span<const Continuation> texts, size_t layer) const {
    int64_t row = 0;
    for (const Continuation& text : texts) {
        const LatentCache::Layer& cache = text.cache->layers[layer];
        const int64_t count = std::ssize(text.ids), from = text.cache->length;
        context.exec.copy(saved.c.slice(row, row + count), cache.c.slice(from, from + count));
        context.exec.copy(rope_columns(saved.down).slice(row, row + count),
                          cache.k_rope.slice(from, from + count));
        row += count;
    }
}

void AttentionMla::attend_to_caches(const PassContext& context, const Saved& saved,
                                    std::span<const Continuation> texts, size_t layer) const {
    int64_t row = 0;
    for (const Continuation& text : texts) {
        const LatentCache::Layer& cache = text.cache->layers[layer];
        const int64_t count = std::ssize(text.ids), end = text.cache->length + count;
        ops::latent_attention(context.exec, {.heads = heads_,
                                             .nope = mla_.nope_dim,
                                             .v = mla_.v_dim,
                                             .scale = scale_,
                                             .q = saved.q.slice(row, row + count),
                                             .c = cache.c.slice(0, end),
                                             .k_rope = cache.k_rope.slice(0, end),
                                             .kv_up = kv_up_->value,
                                             .out = saved.o.slice(row, row + count)});
        row += count;
    }
}

AttentionMla::Out AttentionMla::extend(const PassContext& context, const In& in,
                                       std::span<const Continuation> texts, size_t layer) const {
    Saved saved;
    saved.x = in.x;
    compute_down(context, saved);
    norm_latents(context, saved);
    remember(context, saved, texts, layer);
    compute_q(context, saved);
    saved.o = context.activations(in.x.rows(), heads_ * mla_.v_dim);
    if (texts.front().cache->length == 0) {  // prompts: attention among their own tokens
        compute_kv(context, saved);
        ops::attention(context.exec, shape(context), saved.q, kv_views(saved.kv, saved.k_rope),
                       saved.o, {});
    } else {
        attend_to_caches(context, saved, texts, layer);
    }
    return {context.stream(context.sum_linear(saved.o, out_->packed->forward))};
}

}  // namespace fucina
