#include "kernels/moe.h"

#include "kernels/reference/reference.h"

namespace fucina::ops {

void router(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights) {
    reference::router(config, logits, bias, scores, indices, weights);
}

void router_backward(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                     const Tensor& weights, const Tensor& d_weights, const Tensor& d_scores,
                     const Tensor& d_logits) {
    reference::router_backward(config, scores, indices, weights, d_weights, d_scores, d_logits);
}

double balance_loss(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                    std::span<const int64_t> sequence_offsets, float scale,
                    const Tensor& d_scores) {
    return reference::balance_loss(config, scores, indices, sequence_offsets, scale, d_scores);
}

TokenMap make_token_map(const Tensor& indices, int64_t experts,
                        std::span<const int64_t> grain_offsets) {
    return reference::make_token_map(indices, experts, grain_offsets);
}

void combine(const Combine& io, const TokenMap& map) {
    reference::combine(io, map);
}

void permute(const Tensor& x, const TokenMap& map, const Tensor& out) {
    reference::permute(x, map, out);
}

}  // namespace fucina::ops
