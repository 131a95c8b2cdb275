// Decoding with MLA: the tokens' latents join the cache, and attention works on latents, W_kv
// folded into q and o.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/gemm.h"
#include "kernels/parallel_for.h"
#include "model/layers/attention_mla.h"
#include "model/layers/elementwise.h"

namespace fucina {

namespace {

void copy_rows(const Tensor& from, const Tensor& to) {
    const auto bytes = static_cast<size_t>(from.dim(1) * size_of(from.dtype()));
    for (int64_t i = 0; i < from.rows(); ++i)
        std::memcpy(to.slice(i, i + 1).raw(), from.slice(i, i + 1).raw(), bytes);
}

// Sixteen running sums, so that the compiler can use vectors.
float dot(const float* a, const float* b, int64_t n) {
    float lanes[16] = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int64_t l = 0; l < 16; ++l) lanes[l] = std::fma(a[i + l], b[i + l], lanes[l]);
    float sum = 0;
    for (; i < n; ++i) sum = std::fma(a[i], b[i], sum);
    for (const float lane : lanes) sum += lane;
    return sum;
}

void add_scaled(float scale, const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = std::fma(scale, x[i], y[i]);
}

}  // namespace

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
    saved.o = context.activations(in.x.rows(), mla_.heads * mla_.v_dim);
    if (length == 0) {  // a prompt: attention among its own tokens
        compute_kv(context, saved);
        ops::attention(shape(context), saved.q, kv_views(saved.kv, saved.down), saved.o, {});
    } else {
        attend(saved, cache, length);
    }
    Out out{context.activations(in.x.rows(), in.x.dim(1))};
    ops::linear(saved.o, out_->forward, out.y);
    return out;
}

// With k nope_s = W_k c_s and v_s = W_v c_s per head: q·k nope_s = (W_kᵀ q)·c_s and Σ p_s v_s = W_v
// Σ p_s c_s.
void AttentionMla::attend(const Saved& saved, const LatentCache::Layer& cache,
                          int64_t length) const {
    const int64_t rank = mla_.kv_lora_rank, rope = mla_.rope_dim, nope = mla_.nope_dim;
    const int64_t count = saved.q.rows();
    const Tensor c = in_fp32(cache.c.slice(0, length + count));
    const Tensor k_rope = in_fp32(cache.k_rope.slice(0, length + count));
    const Tensor q = in_fp32(saved.q);
    Tensor o = Tensor::empty({count, mla_.heads * mla_.v_dim}, DType::f32);
    parallel_for(count * mla_.heads, [&](int64_t index) {
        const int64_t token = index / mla_.heads, head = index % mla_.heads;
        const float* q_head = q.row<float>(token) + head * mla_.qk_dim();
        const int64_t first_row = head * (nope + mla_.v_dim);
        std::vector<float> folded(static_cast<size_t>(rank), 0.0f), mixed(folded);
        for (int64_t i = 0; i < nope; ++i)
            add_scaled(q_head[i], kv_up_->value.row<float>(first_row + i), folded.data(), rank);

        const int64_t visible = length + token + 1;
        std::vector<float> p(static_cast<size_t>(visible));
        for (int64_t s = 0; s < visible; ++s)
            p[static_cast<size_t>(s)] = scale_ * (dot(folded.data(), c.row<float>(s), rank) +
                                                  dot(q_head + nope, k_rope.row<float>(s), rope));
        const float largest = *std::max_element(p.begin(), p.end());
        float sum = 0;
        for (float& score : p) sum += score = std::exp(score - largest);
        for (int64_t s = 0; s < visible; ++s)
            add_scaled(p[static_cast<size_t>(s)] / sum, c.row<float>(s), mixed.data(), rank);
        for (int64_t i = 0; i < mla_.v_dim; ++i)
            o.row<float>(token)[head * mla_.v_dim + i] =
                dot(kv_up_->value.row<float>(first_row + nope + i), mixed.data(), rank);
    });
    ops::cast(o, saved.o);
}

}  // namespace fucina
