// Decoding with MLA: the tokens' latents join the cache, and attention works on latents, W_kv
// folded into q and o.
#include "kernels/gemm.h"
#include "model/layers/attention_mla.h"

namespace fucina {

void AttentionMla::remember(const Saved& saved, LatentCache::Layer& cache, int64_t length) const {
    const int64_t end = length + saved.c.rows();
    copy_rows(saved.c, cache.c.slice(length, end));
    copy_rows(rope_columns(saved.down), cache.k_rope.slice(length, end));
}

AttentionMla::Out AttentionMla::extend(const PassContext& context, const In& in,
                                       LatentCache::Layer& cache, int64_t length) const {
    Saved saved;
    saved.x = in.x;
    compute_down(context, saved);
    norm_latents(context, saved);
    remember(saved, cache, length);
    compute_q(context, saved);
    saved.o = context.activations(in.x.rows(), heads_ * mla_.v_dim);
    if (length == 0) {  // a prompt: attention among its own tokens
        compute_kv(context, saved);
        ops::attention(shape(context), saved.q, kv_views(saved.kv, saved.k_rope), saved.o, {});
    } else {
        const int64_t end = length + in.x.rows();
        ops::latent_attention({.heads = heads_,
                               .nope = mla_.nope_dim,
                               .v = mla_.v_dim,
                               .scale = scale_,
                               .q = saved.q,
                               .c = cache.c.slice(0, end),
                               .k_rope = cache.k_rope.slice(0, end),
                               .kv_up = kv_up_->value,
                               .out = saved.o});
    }
    return {context.stream(context.sum_linear(saved.o, out_->packed->forward))};
}

}  // namespace fucina
