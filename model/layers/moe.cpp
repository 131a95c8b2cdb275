#include "model/layers/moe.h"

#include "kernels/gemm.h"
#include "kernels/parallel_for.h"
#include "model/layers/elementwise.h"

namespace fucina {

namespace {

constexpr int64_t kSlots = 4096;  // whose weights one thread moves at a time

struct Operand {
    Tensor rows;
    bool by_row;  // taken through the map; else one a slot
};

// out[i] = values[index[i]]
void gather(std::span<const float> values, const std::vector<int32_t>& index, float* out) {
    parallel_ranges(std::ssize(index), kSlots, kSlots, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            out[i] = values[static_cast<size_t>(index[static_cast<size_t>(i)])];
    });
}

// out[index[i]] = values[i]
void scatter(std::span<const float> values, const std::vector<int32_t>& index, float* out) {
    parallel_ranges(std::ssize(index), kSlots, kSlots, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            out[index[static_cast<size_t>(i)]] = values[static_cast<size_t>(i)];
    });
}

std::span<float> values_of(const Tensor& x) {
    return {x.data<float>(), static_cast<size_t>(x.size())};
}

// Slots in the order of the rows that they were received as.
Tensor as_rows(const PassContext& context, const Tensor& slots, const TokenExchange& exchange) {
    Tensor rows = context.activations(slots.rows(), slots.dim(1));
    scatter_rows(slots, exchange.experts.slot_token, rows);
    return rows;
}

// Rows of tokens in the order of the map's slots.
Tensor as_slots(const PassContext& context, const Tensor& x, const TokenMap& map) {
    Tensor slots = context.activations(map.slots(), x.dim(1));
    ops::permute(x, map, slots);
    return slots;
}

// dW = dyᵀ x of each expert here.
WeightGradQueue::Item expert_grad(Parameter* parameter, Operand dy, Operand x,
                                  std::shared_ptr<const TokenMap> map) {
    return {parameter, nullptr,
            [dy = std::move(dy), x = std::move(x), map = std::move(map)](const SumNode&,
                                                                         const Tensor& dw) {
                const int32_t* rows = map->slot_token.data();
                ops::grouped_linear_wgrad({.dy = dy.rows,
                                           .dy_index = dy.by_row ? rows : nullptr,
                                           .x = x.rows,
                                           .x_index = x.by_row ? rows : nullptr,
                                           .trees = map->trees,
                                           .group_offsets = map->expert_offsets},
                                          dw);
            }};
}

// The same of each part of the slots apart.
WeightGradQueue::Item part_grad(Parameter* parameter, Operand dy, Operand x,
                                std::shared_ptr<const std::vector<SlotPart>> parts) {
    auto nodes = std::make_shared<SumNodes>();
    for (int64_t part = 0; part < std::ssize(*parts); ++part)
        nodes->push_back({part, part + 1, {}});
    return {parameter, std::move(nodes),
            [dy = std::move(dy), x = std::move(x), parts = std::move(parts)](const SumNode& node,
                                                                             const Tensor& dw) {
                const SlotPart& part = (*parts)[static_cast<size_t>(node.begin)];
                ops::grouped_linear_wgrad({.dy = dy.rows,
                                           .dy_index = (dy.by_row ? part.rows : part.slots).data(),
                                           .x = x.rows,
                                           .x_index = (x.by_row ? part.rows : part.slots).data(),
                                           .trees = part.trees,
                                           .group_offsets = part.offsets},
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
                           {spec_.router.experts, 2, spec_.expert_width, spec.hidden_size},
                           PackKind::gate_up)),
      down_(set.experts(prefix + "experts.down",
                        {spec_.router.experts, spec.hidden_size, spec_.expert_width})) {
    router_->fp32 = true;
    if (spec_.shared_width > 0)
        shared_.emplace(set, prefix + "shared.", spec.hidden_size, spec_.shared_width);
}

void Moe::route(const PassContext& context, Saved& saved) const {
    const Tensor x = context.own(saved.x);
    const int64_t tokens = x.rows();
    const RouterConfig& config = spec_.router;
    Tensor logits = Tensor::empty({tokens, config.experts}, DType::f32);
    ops::linear(in_fp32(x), router_->forward, logits);
    Route& route = saved.route;
    route.scores = Tensor::empty({tokens, config.experts}, DType::f32);
    route.indices = Tensor::empty({tokens, config.top_k}, DType::i32);
    route.weights = Tensor::empty({tokens, config.top_k}, DType::f32);
    ops::router(config, logits, bias_->value, route.scores, route.indices, route.weights);
    route.map = std::make_shared<const TokenMap>(
        ops::make_token_map(route.indices, config.experts, context.own_grains()));
}

Tensor Moe::experts(const PassContext& context, const Tensor& x, const TokenMap& map,
                    Tensor& gate_up) const {
    if (context.keeps) gate_up = context.activations(map.slots(), 2 * spec_.expert_width);
    Tensor h = context.activations(map.slots(), spec_.expert_width);
    ops::gate_up_swiglu(x, map.groups(true), gate_up_->forward, gate_up, h);
    Tensor slots = context.activations(map.slots(), x.dim(1));
    ops::grouped_linear(h, map.groups(false), down_->forward, slots);
    return slots;
}

TokenDispatcher::Move Moe::send(const PassContext& context, Saved& saved) const {
    const TokenMap& map = *saved.route.map;
    saved.received.exchange = context.dispatcher->plan(map, context.grains(), context.expert_sums);
    return context.dispatcher->start_dispatch(*saved.received.exchange,
                                              as_slots(context, context.own(saved.x), map));
}

Tensor Moe::combine(const PassContext& context, const Tensor& slots, const Saved& saved,
                    const Tensor& shared, const Tensor& residual) const {
    Tensor y = context.activations(saved.route.weights.rows(), saved.x.dim(1));
    ops::combine({.slots = slots,
                  .weights = saved.route.weights.data<float>(),
                  .add1 = shared,
                  .add2 = context.own(residual),
                  .out = y},
                 *saved.route.map);
    return context.stream(y);
}

Moe::Out Moe::forward(const PassContext& context, const In& in, Saved& saved) const {
    saved.x = in.x;
    const bool again = saved.route.map != nullptr;
    if (!again) route(context, saved);
    std::optional<TokenDispatcher::Move> sent;
    if (context.dispatcher != nullptr && !again) sent = send(context, saved);
    Tensor shared;  // computed while tokens travel
    if (shared_) shared = shared_->forward(context, {in.x}, saved.shared).y;
    if (sent) saved.received.x = sent->finish();
    if (context.dispatcher == nullptr) {
        const Tensor slots = experts(context, in.x, *saved.route.map, saved.gate_up);
        return {combine(context, slots, saved, shared, in.residual)};
    }
    const TokenExchange& exchange = *saved.received.exchange;
    Tensor slots = experts(context, saved.received.x, exchange.experts, saved.gate_up);
    if (again) return {};
    slots = context.dispatcher->combine(exchange, as_rows(context, slots, exchange));
    return {combine(context, slots, saved, shared, in.residual)};
}

Tensor Moe::experts_backward(const PassContext& context, const ExpertsBackward& io,
                             Tensor& gate_up) const {
    const TokenMap& map = io.map;
    const auto add = [&](Parameter* parameter, Operand dy, Operand x) {
        context.weight_grads->add(
            io.parts != nullptr
                ? part_grad(parameter, std::move(dy), std::move(x), io.parts)
                : expert_grad(parameter, std::move(dy), std::move(x), {io.holds, &map}));
    };
    Tensor d_gate_up = context.activations(map.slots(), 2 * spec_.expert_width);
    {
        Tensor weighted_h = context.activations(map.slots(), spec_.expert_width);
        ops::down_swiglu_backward({.dy = io.dy,
                                   .rows = map.groups(true),
                                   .down = down_->dgrad,
                                   .gate_up = gate_up,
                                   .row_weight = io.weights.data(),
                                   .d_gate_up = d_gate_up,
                                   .weighted_h = weighted_h,
                                   .d_row_weight = io.d_weights.data()});
        gate_up = Tensor();
        add(down_, {io.dy, true}, {weighted_h, false});
    }
    add(gate_up_, {d_gate_up, false}, {io.x, true});
    Tensor dx = context.activations(map.slots(), io.x.dim(1));
    ops::grouped_linear(d_gate_up, map.groups(false), gate_up_->dgrad, dx);
    return dx;
}

// Gradient of the slots' rows, [T*k, D]; d_weights by choice.
Tensor Moe::experts_here_backward(const PassContext& context, const Tensor& dy,
                                  const Tensor& d_weights, Saved& saved) const {
    const std::shared_ptr<const TokenMap>& map = saved.route.map;
    std::vector<float> weights(map->slot_choice.size()), d_slots(weights.size());
    gather(values_of(saved.route.weights), map->slot_choice, weights.data());
    std::shared_ptr<const std::vector<SlotPart>> parts;
    if (context.expert_sums == ExpertSums::by_grain)
        parts = std::make_shared<const std::vector<SlotPart>>(
            part_slots(*map, std::vector<int64_t>(static_cast<size_t>(context.grains()), 1)));
    Tensor dx = experts_backward(context,
                                 {.dy = dy,
                                  .x = saved.x,
                                  .map = *map,
                                  .weights = weights,
                                  .d_weights = d_slots,
                                  .holds = map,
                                  .parts = std::move(parts)},
                                 saved.gate_up);
    scatter(d_slots, map->slot_choice, d_weights.data<float>());
    return dx;
}

// The same with experts on several ranks: gradients and weights go the way of the tokens.
TokenDispatcher::Move Moe::experts_there_backward(const PassContext& context, const Tensor& dy,
                                                  const Tensor& d_weights, Saved& saved) const {
    const TokenMap& map = *saved.route.map;
    const std::shared_ptr<const TokenExchange> exchange = saved.received.exchange;
    const std::vector<int32_t>& slot_row = exchange->experts.slot_token;
    const Tensor d_rows = context.dispatcher->dispatch(*exchange, as_slots(context, dy, map));
    const Tensor sent = Tensor::empty({map.slots(), 1}, DType::f32);
    gather(values_of(saved.route.weights), map.slot_choice, sent.data<float>());
    const Tensor row_weights = context.dispatcher->dispatch(*exchange, sent);
    std::vector<float> weights(slot_row.size()), d_slots(slot_row.size());
    gather(values_of(row_weights), slot_row, weights.data());
    std::shared_ptr<const std::vector<SlotPart>> parts;
    if (context.expert_sums != ExpertSums::together) parts = {exchange, &exchange->parts};
    const Tensor dx = experts_backward(context,
                                       {.dy = d_rows,
                                        .x = saved.received.x,
                                        .map = exchange->experts,
                                        .weights = weights,
                                        .d_weights = d_slots,
                                        .holds = exchange,
                                        .parts = std::move(parts)},
                                       saved.gate_up);
    saved.received.x = Tensor();
    scatter(d_slots, slot_row, row_weights.data<float>());
    scatter(values_of(context.dispatcher->combine(*exchange, row_weights)), map.slot_choice,
            d_weights.data<float>());
    return context.dispatcher->start_combine(*exchange, as_rows(context, dx, *exchange));
}

// Adds this layer's counts and balance loss to the report; the loss's gradient with respect to
// scores is returned. It is of whole sequences: the first of the ranks that share them reports it.
Tensor Moe::report_balance(const PassContext& context, const Route& route) const {
    std::vector<int64_t>& counts =
        context.report->expert_counts[static_cast<size_t>(report_index_)];
    const std::vector<int64_t>& offsets = route.map->expert_offsets;
    for (size_t e = 0; e < counts.size(); ++e) counts[e] = offsets[e + 1] - offsets[e];
    if (context.balance_scale == 0) return {};

    Tensor scores = route.scores, indices = route.indices;
    if (context.shares) {
        scores = context.shares->all(scores);
        indices = context.shares->all(indices);
    }
    const Tensor d_scores = Tensor::empty(scores.shape(), DType::f32);
    const ExactSum balance =
        ops::balance_loss(spec_.router, scores, indices, context.sequence_offsets,
                          static_cast<float>(context.balance_scale), d_scores);
    if (!context.shares || context.shares->rank() == 0) context.report->balance.add(balance);
    return context.shares ? context.shares->own(d_scores) : d_scores;
}

Tensor Moe::route_backward(const PassContext& context, const Tensor& d_weights,
                           Saved& saved) const {
    const Route& route = saved.route;
    const Tensor d_scores = report_balance(context, route);
    Tensor d_logits = Tensor::empty(route.scores.shape(), DType::f32);
    ops::router_backward(spec_.router, route.scores, route.indices, route.weights, d_weights,
                         d_scores, d_logits);
    const Tensor x = in_fp32(context.own(saved.x));
    context.weight_grads->add(matrix_grad(router_, d_logits, x, context.own_nodes));
    Tensor dx = Tensor::empty(x.shape(), DType::f32);
    ops::linear(d_logits, router_->dgrad, dx);
    return dx;
}

Moe::In Moe::backward(const PassContext& context, const Out& grad, Saved& saved) const {
    Tensor d_weights = Tensor::empty(saved.route.weights.shape(), DType::f32);
    Tensor slots;
    std::optional<TokenDispatcher::Move> sent;
    if (context.dispatcher == nullptr)
        slots = experts_here_backward(context, grad.y, d_weights, saved);
    else
        sent = experts_there_backward(context, context.own(grad.y), d_weights, saved);
    Tensor shared;  // computed while gradients travel, as are the router's
    if (shared_) shared = shared_->backward(context, {grad.y}, saved.shared).x;
    const Tensor router = route_backward(context, d_weights, saved);
    if (sent) slots = sent->finish();
    const Tensor dx = context.activations(router.rows(), router.dim(1));
    ops::combine({.slots = slots, .add1 = router, .add2 = shared, .out = dx}, *saved.route.map);
    saved = Saved();
    return {context.stream(dx), {}};
}

}  // namespace fucina
