#include "model/layers/moe.h"

#include "kernels/gemm.h"
#include "kernels/parallel_for.h"
#include "model/layers/elementwise.h"

namespace fucina {

namespace {

constexpr int64_t kSlots = 4096;  // whose weights one thread moves at a time

struct Operand {
    Tensor rows;
    bool by_token;  // else by slot
};

// dW = dyᵀ x of each expert.
WeightGradQueue::Item expert_grad(Parameter* parameter, Operand dy, Operand x,
                                  std::shared_ptr<const TokenMap> map) {
    return {parameter, nullptr,
            [dy = std::move(dy), x = std::move(x), map = std::move(map)](const SumNode&,
                                                                         const Tensor& dw) {
                const int32_t* tokens = map->slot_token.data();
                ops::grouped_linear_wgrad({.dy = dy.rows,
                                           .dy_index = dy.by_token ? tokens : nullptr,
                                           .x = x.rows,
                                           .x_index = x.by_token ? tokens : nullptr,
                                           .trees = map->trees,
                                           .group_offsets = map->expert_offsets},
                                          dw);
            }};
}

}  // namespace

Moe::Moe(ParameterSet& set, const std::string& prefix, const ModelSpec& spec, int64_t report_index)
    : spec_(spec.moe),
      report_index_(report_index),
      router_(set.matrix(prefix + "router", {spec_.router.experts, spec.hidden_size})),
      bias_(set.buffer(prefix + "router_bias", {spec_.router.experts})),
      gate_up_(set.experts(prefix + "experts.gate_up",
                           {spec_.router.experts, 2 * spec_.expert_width, spec.hidden_size},
                           PackKind::gate_up)),
      down_(set.experts(prefix + "experts.down",
                        {spec_.router.experts, spec.hidden_size, spec_.expert_width})) {
    router_->fp32 = true;
    if (spec_.shared_width > 0)
        shared_.emplace(set, prefix + "shared.", spec.hidden_size, spec_.shared_width);
}

void Moe::route(const PassContext& context, Saved& saved) const {
    const int64_t tokens = saved.x.rows();
    const RouterConfig& config = spec_.router;
    Tensor logits = Tensor::empty({tokens, config.experts}, DType::f32);
    ops::linear(in_fp32(saved.x), router_->forward, logits);
    Route& route = saved.route;
    route.scores = Tensor::empty({tokens, config.experts}, DType::f32);
    route.indices = Tensor::empty({tokens, config.top_k}, DType::i32);
    route.weights = Tensor::empty({tokens, config.top_k}, DType::f32);
    ops::router(config, logits, bias_->value, route.scores, route.indices, route.weights);
    route.map = std::make_shared<const TokenMap>(
        ops::make_token_map(route.indices, config.experts, context.grain_offsets));
}

Tensor Moe::experts(const PassContext& context, Saved& saved) const {
    const TokenMap& map = *saved.route.map;
    if (context.keeps) saved.gate_up = context.activations(map.slots(), 2 * spec_.expert_width);
    Tensor h = context.activations(map.slots(), spec_.expert_width);
    ops::gate_up_swiglu(saved.x, map.groups(true), gate_up_->forward, saved.gate_up, h);
    Tensor slots = context.activations(map.slots(), saved.x.dim(1));
    ops::grouped_linear(h, map.groups(false), down_->forward, slots);
    return slots;
}

Tensor Moe::combine(const PassContext& context, const Tensor& slots, const Saved& saved,
                    const Tensor& shared, const Tensor& residual) const {
    Tensor y = context.activations(saved.x.rows(), saved.x.dim(1));
    ops::combine({.slots = slots,
                  .weights = saved.route.weights.data<float>(),
                  .add1 = shared,
                  .add2 = residual,
                  .out = y},
                 *saved.route.map);
    return y;
}

Moe::Out Moe::forward(const PassContext& context, const In& in, Saved& saved) const {
    saved.x = in.x;
    route(context, saved);
    Tensor shared;
    if (shared_) shared = shared_->forward(context, {in.x}, saved.shared).y;
    const Tensor slots = experts(context, saved);
    return {combine(context, slots, saved, shared, in.residual)};
}

Tensor Moe::experts_backward(const PassContext& context, const Tensor& dy, const Tensor& d_weights,
                             Saved& saved) const {
    const TokenMap& map = *saved.route.map;
    const int64_t slots = map.slots();
    const float* weights = saved.route.weights.data<float>();
    std::vector<float> row_weight(static_cast<size_t>(slots)), d_row_weight(row_weight.size());
    parallel_ranges(slots, kSlots, kSlots, [&](int64_t begin, int64_t end) {
        for (auto s = static_cast<size_t>(begin); s < static_cast<size_t>(end); ++s)
            row_weight[s] = weights[map.slot_choice[s]];
    });

    Tensor d_gate_up = context.activations(slots, 2 * spec_.expert_width);
    {
        Tensor weighted_h = context.activations(slots, spec_.expert_width);
        ops::down_swiglu_backward({.dy = dy,
                                   .rows = map.groups(true),
                                   .down = down_->dgrad,
                                   .gate_up = saved.gate_up,
                                   .row_weight = row_weight.data(),
                                   .d_gate_up = d_gate_up,
                                   .weighted_h = weighted_h,
                                   .d_row_weight = d_row_weight.data()});
        saved.gate_up = Tensor();
        context.weight_grads->add(
            expert_grad(down_, {dy, true}, {weighted_h, false}, saved.route.map));
    }
    parallel_ranges(slots, kSlots, kSlots, [&](int64_t begin, int64_t end) {
        for (auto s = static_cast<size_t>(begin); s < static_cast<size_t>(end); ++s)
            d_weights.data<float>()[map.slot_choice[s]] = d_row_weight[s];
    });
    context.weight_grads->add(
        expert_grad(gate_up_, {d_gate_up, false}, {saved.x, true}, saved.route.map));
    Tensor dx = context.activations(slots, saved.x.dim(1));
    ops::grouped_linear(d_gate_up, map.groups(false), gate_up_->dgrad, dx);
    return dx;
}

// Adds this layer's counts and balance loss to the report; the loss's gradient with respect to
// scores is returned.
Tensor Moe::report_balance(const PassContext& context, const Route& route) const {
    std::vector<int64_t>& counts =
        context.report->expert_counts[static_cast<size_t>(report_index_)];
    const std::vector<int64_t>& offsets = route.map->expert_offsets;
    for (size_t e = 0; e < counts.size(); ++e) counts[e] = offsets[e + 1] - offsets[e];
    if (context.balance_scale == 0) return {};

    Tensor d_scores = Tensor::empty(route.scores.shape(), DType::f32);
    context.report->balance.add(
        ops::balance_loss(spec_.router, route.scores, route.indices, context.sequence_offsets,
                          static_cast<float>(context.balance_scale), d_scores));
    return d_scores;
}

Tensor Moe::route_backward(const PassContext& context, const Tensor& d_weights,
                           Saved& saved) const {
    const Route& route = saved.route;
    const Tensor d_scores = report_balance(context, route);
    Tensor d_logits = Tensor::empty(route.scores.shape(), DType::f32);
    ops::router_backward(spec_.router, route.scores, route.indices, route.weights, d_weights,
                         d_scores, d_logits);
    context.weight_grads->add(matrix_grad(router_, d_logits, in_fp32(saved.x), context.nodes));
    Tensor dx = Tensor::empty(saved.x.shape(), DType::f32);
    ops::linear(d_logits, router_->dgrad, dx);
    return dx;
}

Moe::In Moe::backward(const PassContext& context, const Out& grad, Saved& saved) const {
    Tensor d_weights = Tensor::empty(saved.route.weights.shape(), DType::f32);
    const Tensor slots = experts_backward(context, grad.y, d_weights, saved);
    Tensor shared;
    if (shared_) shared = shared_->backward(context, {grad.y}, saved.shared).x;
    const Tensor router = route_backward(context, d_weights, saved);
    In in{context.activations(saved.x.rows(), saved.x.dim(1)), {}};
    ops::combine({.slots = slots, .add1 = router, .add2 = shared, .out = in.x}, *saved.route.map);
    saved = Saved();
    return in;
}

}  // namespace fucina
