#include "kernels/moe.h"

#include "kernels/cpu/row_ops.h"

namespace fucina {

void check_router(const RouterConfig& c) {
    FUCINA_CHECK(c.groups > 0 && c.experts % c.groups == 0 && c.topk_groups >= 1 &&
                     c.topk_groups <= c.groups && c.top_k >= 1 &&
                     c.top_k <= c.experts / c.groups * c.topk_groups,
                 "router of ", c.experts, " experts in ", c.groups, " groups, top ", c.top_k,
                 " in ", c.topk_groups, " groups");
}

namespace ops {
namespace {

void check_matrix(const Tensor& x, int64_t rows, int64_t columns, DType type) {
    FUCINA_CHECK(x.rank() == 2 && x.rows() == rows && x.row_size() == columns && x.dtype() == type,
                 x.describe(), ", expected ", name_of(type), " [", rows, ", ", columns, "]");
}

}  // namespace

void router(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights) {
    check_router(config);
    const int64_t tokens = logits.rows();
    check_matrix(logits, tokens, config.experts, DType::f32);
    check_matrix(scores, tokens, config.experts, DType::f32);
    check_matrix(indices, tokens, config.top_k, DType::i32);
    check_matrix(weights, tokens, config.top_k, DType::f32);
    FUCINA_CHECK(!bias.defined() || (bias.size() == config.experts && bias.dtype() == DType::f32),
                 "router bias ", bias.describe());
    cpu::router(config, logits, bias, scores, indices, weights);
}

void router_backward(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                     const Tensor& weights, const Tensor& d_weights, const Tensor& d_scores,
                     const Tensor& d_logits) {
    check_router(config);
    const int64_t tokens = scores.rows();
    check_matrix(scores, tokens, config.experts, DType::f32);
    check_matrix(indices, tokens, config.top_k, DType::i32);
    check_matrix(weights, tokens, config.top_k, DType::f32);
    check_matrix(d_weights, tokens, config.top_k, DType::f32);
    check_matrix(d_logits, tokens, config.experts, DType::f32);
    if (d_scores.defined()) check_matrix(d_scores, tokens, config.experts, DType::f32);
    cpu::router_backward(config, scores, indices, d_weights, d_scores, d_logits);
}

ExactSum balance_loss(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                      std::span<const int64_t> sequence_offsets, float scale,
                      const Tensor& d_scores) {
    check_router(config);
    check_matrix(scores, scores.rows(), config.experts, DType::f32);
    check_matrix(indices, scores.rows(), config.top_k, DType::i32);
    if (d_scores.defined()) check_matrix(d_scores, scores.rows(), config.experts, DType::f32);
    FUCINA_CHECK(!sequence_offsets.empty() && sequence_offsets.back() == scores.rows(),
                 "sequences of ", scores.rows(), " tokens");
    return cpu::balance_loss(config, scores, indices, sequence_offsets, scale, d_scores);
}

TokenMap make_token_map(const Tensor& indices, int64_t experts,
                        std::span<const int64_t> grain_offsets, std::span<const int64_t> room) {
    FUCINA_CHECK(!grain_offsets.empty() && grain_offsets.back() == indices.rows(), "grains of ",
                 indices.rows(), " tokens");
    FUCINA_CHECK(room.empty() || std::ssize(room) == (std::ssize(grain_offsets) - 1) * experts,
                 "room of ", room.size(), " pairs of grain and expert");
    return cpu::make_token_map(indices, experts, grain_offsets, room);
}

void combine(const Combine& io, const TokenMap& map) {
    FUCINA_CHECK(io.slots.rows() == map.slots() && io.slots.row_size() == io.out.row_size(),
                 "combine of ", io.slots.describe(), ", ", map.slots(), " slots, to ",
                 io.out.describe());
    for (const Tensor* addend : {&io.add1, &io.add2})
        FUCINA_CHECK(!addend->defined() || (addend->rows() == io.out.rows() &&
                                            addend->row_size() == io.out.row_size()),
                     "combine adds ", addend->describe(), " to ", io.out.describe());
    cpu::combine(io, map);
}

void permute(const Tensor& x, const TokenMap& map, const Tensor& out) {
    FUCINA_CHECK(
        out.rows() == map.slots() && out.row_size() == x.row_size() && out.dtype() == x.dtype(),
        "permute of ", x.describe(), " to ", out.describe());
    cpu::permute(x, map, out);
}

}  // namespace ops
}  // namespace fucina
