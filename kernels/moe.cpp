#include "kernels/moe.h"

#include "kernels/cpu/row_ops.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/rows.h"

namespace fucina {

void check_router(const RouterConfig& c) {
    FUCINA_CHECK(c.groups > 0 && c.experts % c.groups == 0 && c.topk_groups >= 1 &&
                     c.topk_groups <= c.groups && c.top_k >= 1 &&
                     c.top_k <= c.experts / c.groups * c.topk_groups,
                 "router of ", c.experts, " experts in ", c.groups, " groups, top ", c.top_k,
                 " in ", c.topk_groups, " groups");
}

void check_matrix(const Tensor& x, int64_t rows, int64_t columns, DType type) {
    FUCINA_CHECK(x.rank() == 2 && x.rows() == rows && x.row_size() == columns && x.dtype() == type,
                 x.describe(), ", expected ", name_of(type), " [", rows, ", ", columns, "]");
}

void check_addend(const Tensor& x, const Tensor& out) {
    FUCINA_CHECK(!x.defined() || (x.rows() == out.rows() && x.row_size() == out.row_size()),
                 x.describe(), " added to ", out.describe());
}

namespace ops {
namespace {

void check_offsets(const Tensor& offsets) {
    FUCINA_CHECK(offsets.rank() == 1 && offsets.dtype() == DType::i64 && offsets.rows() > 0,
                 "offsets are ", offsets.describe());
}

// Rows of x and out, of which one is taken through the index.
void check_indexed(const Tensor& x, const Tensor& index, const Tensor& out) {
    FUCINA_CHECK(out.row_size() == x.row_size() && out.dtype() == x.dtype() &&
                     index.dtype() == DType::i32 && index.contiguous(),
                 "rows of ", x.describe(), " to ", out.describe(), " by ", index.describe());
}

}  // namespace

void router(const Exec& exec, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights) {
    check_router(config);
    const int64_t tokens = logits.rows();
    check_matrix(logits, tokens, config.experts, DType::f32);
    check_matrix(scores, tokens, config.experts, DType::f32);
    check_matrix(indices, tokens, config.top_k, DType::i32);
    check_matrix(weights, tokens, config.top_k, DType::f32);
    FUCINA_CHECK(!bias.defined() || (bias.size() == config.experts && bias.dtype() == DType::f32),
                 "router bias ", bias.describe());
    FUCINA_RUN(exec, router, config, logits, bias, scores, indices, weights);
}

void router_backward(const Exec& exec, const RouterConfig& config, const Tensor& scores,
                     const Tensor& indices, const Tensor& weights, const Tensor& d_weights,
                     const Tensor& d_scores, const Tensor& d_logits) {
    check_router(config);
    const int64_t tokens = scores.rows();
    check_matrix(scores, tokens, config.experts, DType::f32);
    check_matrix(indices, tokens, config.top_k, DType::i32);
    check_matrix(weights, tokens, config.top_k, DType::f32);
    check_matrix(d_weights, tokens, config.top_k, DType::f32);
    check_matrix(d_logits, tokens, config.experts, DType::f32);
    if (d_scores.defined()) check_matrix(d_scores, tokens, config.experts, DType::f32);
    FUCINA_RUN(exec, router_backward, config, scores, indices, d_weights, d_scores, d_logits);
}

ExactSum balance_loss(const Exec& exec, const RouterConfig& config, const Tensor& scores,
                      const Tensor& indices, const Tensor& sequence_offsets, float scale,
                      const Tensor& d_scores) {
    check_router(config);
    check_matrix(scores, scores.rows(), config.experts, DType::f32);
    check_matrix(indices, scores.rows(), config.top_k, DType::i32);
    if (d_scores.defined()) check_matrix(d_scores, scores.rows(), config.experts, DType::f32);
    check_offsets(sequence_offsets);
    FUCINA_RUN(exec, balance_loss, config, scores, indices, sequence_offsets, scale, d_scores);
}

void update_router_bias(const Exec& exec, std::span<const int64_t> loads, float rate,
                        const Tensor& bias) {
    FUCINA_CHECK(std::ssize(loads) == bias.size() && bias.dtype() == DType::f32, loads.size(),
                 " loads for ", bias.describe());
    FUCINA_RUN(exec, update_router_bias, loads, rate, bias);
}

TokenMap make_token_map(const Exec& exec, const Tensor& indices, int64_t experts,
                        const Tensor& grain_offsets, const Tensor& room) {
    check_offsets(grain_offsets);
    if (room.defined()) check_matrix(room, grain_offsets.rows() - 1, experts, DType::i64);
    FUCINA_RUN(exec, make_token_map, indices, experts, grain_offsets, room);
}

void count_choices(const Exec& exec, const Tensor& indices, const Tensor& grain_offsets,
                   const Tensor& out) {
    check_offsets(grain_offsets);
    check_matrix(out, grain_offsets.rows() - 1, out.row_size(), DType::i64);
    FUCINA_RUN(exec, count_choices, indices, grain_offsets, out);
}

void combine(const Exec& exec, const Combine& io, const TokenMap& map) {
    FUCINA_CHECK(io.slots.rows() == map.slots() && io.slots.row_size() == io.out.row_size(),
                 "combine of ", io.slots.describe(), ", ", map.slots(), " slots, to ",
                 io.out.describe());
    if (io.weights.defined())
        check_matrix(io.weights, io.out.rows(), io.weights.row_size(), DType::f32);
    check_addend(io.add1, io.out);
    check_addend(io.add2, io.out);
    FUCINA_RUN(exec, combine, io, map);
}

void add(const Exec& exec, const Tensor& a, const Tensor& b, const Tensor& out) {
    check_addend(a, out);
    check_addend(b, out);
    FUCINA_RUN(exec, add, a, b, out);
}

void gather_rows(const Exec& exec, const Tensor& x, const Tensor& index, const Tensor& out) {
    check_indexed(x, index, out);
    FUCINA_CHECK(index.size() == out.rows(), index.size(), " rows to ", out.describe());
    FUCINA_RUN(exec, gather_rows, x, index, out);
}

void scatter_rows(const Exec& exec, const Tensor& x, const Tensor& index, const Tensor& out) {
    check_indexed(x, index, out);
    FUCINA_CHECK(index.size() == x.rows(), index.size(), " places for ", x.describe());
    FUCINA_RUN(exec, scatter_rows, x, index, out);
}

}  // namespace ops
}  // namespace fucina
