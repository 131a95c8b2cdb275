#include "model/layers/routed_experts.h"

#include "kernels/gemm.h"

namespace fucina {

namespace {

struct Operand {
    Tensor rows;
    bool by_row;  // taken through the map; else one a slot
};

Tensor of_choices(const Tensor& weights) {  // [T, k] -> [T * k, 1]
    return weights.view({weights.size(), 1});
}

Tensor gather(const Exec& exec, const Tensor& x, const Tensor& index) {
    Tensor out = exec.empty({index.size(), x.row_size()}, x.dtype());
    ops::gather_rows(exec, x, index, out);
    return out;
}

// Slots in the order of the rows that they were received as.
Tensor as_rows(const Exec& exec, const Tensor& slots, const TokenExchange& exchange) {
    Tensor rows = exec.empty(slots.shape(), slots.dtype());
    ops::scatter_rows(exec, slots, exchange.experts.slot_token, rows);
    return rows;
}

// Tokens and choices of the slots that a wave sends; its other members are undefined.
RoutedExperts::Map sent_slots(const Exec& exec, const RoutedExperts::Map& map,
                              const TokenExchange& wave) {
    if (wave.only) return map;
    TokenMap sent;
    sent.slot_token = gather(exec, map->slot_token, wave.slots);
    sent.slot_choice = gather(exec, map->slot_choice, wave.slots);
    return std::make_shared<const TokenMap>(std::move(sent));
}

// dW = dyᵀ x of experts here, the others have no rows; rows: what those taken through a map are.
ops::GroupedWgrad wgrad(const Operand& dy, const Operand& x, const Tensor& rows,
                        const Tensor& slots, const Tensor& leaves, WeightGradQueue::Rows experts,
                        bool fp8) {
    return {.dy = dy.rows,
            .dy_index = dy.by_row ? rows : slots,
            .x = x.rows,
            .x_index = x.by_row ? rows : slots,
            .leaves = leaves.slice(experts.begin, experts.end),
            .fp8 = fp8};
}

WeightGradQueue::Item expert_grad(Parameter* parameter, WeightGradQueue::Rows experts, Operand dy,
                                  Operand x, RoutedExperts::Map map) {
    return {.parameter = parameter,
            .compute =
                [=, dy = std::move(dy), x = std::move(x), map = std::move(map)](const SumNode&,
                                                                                const Tensor& dw) {
                    ops::grouped_linear_wgrad(parameter->exec,
                                              wgrad(dy, x, map->slot_token, Tensor(), map->leaves,
                                                    experts, parameter->packed->forward.fp8()),
                                              dw);
                },
            .rows = experts};
}

// The same of each part of the slots apart.
WeightGradQueue::Item part_grad(Parameter* parameter, WeightGradQueue::Rows experts, Operand dy,
                                Operand x, std::shared_ptr<const std::vector<SlotPart>> parts) {
    auto nodes = std::make_shared<SumNodes>();
    for (int64_t part = 0; part < std::ssize(*parts); ++part)
        nodes->push_back({part, part + 1, {}});
    return {.parameter = parameter,
            .nodes = std::move(nodes),
            .compute =
                [=, dy = std::move(dy), x = std::move(x), parts = std::move(parts)](
                    const SumNode& node, const Tensor& dw) {
                    const SlotPart& part = (*parts)[static_cast<size_t>(node.begin)];
                    ops::grouped_linear_wgrad(parameter->exec,
                                              wgrad(dy, x, part.rows, part.slots, part.leaves,
                                                    experts, parameter->packed->forward.fp8()),
                                              dw);
                },
            .rows = experts};
}

}  // namespace

RoutedExperts::RoutedExperts(ParameterSet& set, const std::string& prefix, const ModelSpec& spec)
    : width_(spec.moe.expert_width),
      gate_up_(set.experts(prefix + "experts.gate_up",
                           {spec.moe.router.experts, 2, width_, spec.hidden_size},
                           PackKind::gate_up)),
      down_(set.experts(prefix + "experts.down",
                        {spec.moe.router.experts, spec.hidden_size, width_})) {}

Tensor RoutedExperts::experts(const PassContext& context, const Tensor& x, const TokenMap& map,
                              Tensor* gate_up) const {
    if (gate_up != nullptr) *gate_up = context.activations(map.slots(), 2 * width_);
    Tensor h = context.activations(map.slots(), width_);
    ops::gate_up_swiglu(context.exec, x, map.groups(true), gate_up_->packed->forward,
                        gate_up != nullptr ? *gate_up : Tensor(), h);
    Tensor slots = context.activations(map.slots(), x.dim(1));
    ops::grouped_linear(context.exec, h, map.groups(false), down_->packed->forward, slots);
    return slots;
}

std::optional<TokenDispatcher::Move> RoutedExperts::send(const PassContext& context,
                                                         const Tensor& x, const Map& map,
                                                         Saved& saved) const {
    if (context.dispatcher == nullptr) return std::nullopt;
    saved.received.waves = context.dispatcher->plan(*map, context.grains(), context.expert_sums);
    const TokenExchange& first = saved.received.waves->front();
    return context.dispatcher->start_dispatch(
        first, gather(context.exec, x, sent_slots(context.exec, map, first)->slot_token));
}

Tensor RoutedExperts::forward(const PassContext& context, const Tensor& x, const Map& map,
                              std::optional<TokenDispatcher::Move> sent, Saved& saved) const {
    Tensor* const gate_up = context.keeps ? &saved.gate_up : nullptr;
    if (context.dispatcher == nullptr) return experts(context, x, *map, gate_up);
    const TokenExchanges& waves = *saved.received.waves;
    if (!sent) {
        experts(context, saved.received.x, waves[0].experts, gate_up);
        return {};
    }
    saved.received.x = sent->finish();
    const auto sent_back = [&](const TokenExchange& wave, const Tensor& rows, Tensor* kept) {
        const Tensor slots = experts(context, rows, wave.experts, kept);
        return context.dispatcher->combine(wave, as_rows(context.exec, slots, wave));
    };
    Tensor slots = sent_back(waves[0], saved.received.x, gate_up);
    if (waves[0].only) return slots;
    Tensor all = context.activations(map->slots(), x.dim(1));
    ops::scatter_rows(context.exec, slots, waves[0].slots, all);
    for (const TokenExchange& wave : std::span(waves).subspan(1)) {
        const Tensor rows = context.dispatcher->dispatch(
            wave, gather(context.exec, x, sent_slots(context.exec, map, wave)->slot_token));
        ops::scatter_rows(context.exec, sent_back(wave, rows, nullptr), wave.slots, all);
    }
    return all;
}

// Gradient of the rows, in slot order.
Tensor RoutedExperts::experts_backward(const PassContext& context, const Rows& rows,
                                       Tensor& gate_up) const {
    const TokenMap& map = *rows.map;
    const auto add = [&](Parameter* parameter, Operand dy, Operand x) {
        context.weight_grads->add(
            rows.parts != nullptr
                ? part_grad(parameter, rows.experts, std::move(dy), std::move(x), rows.parts)
                : expert_grad(parameter, rows.experts, std::move(dy), std::move(x), rows.map));
    };
    Tensor d_gate_up = context.activations(map.slots(), 2 * width_);
    {
        Tensor weighted_h = context.activations(map.slots(), width_);
        ops::down_swiglu_backward(context.exec, {.dy = rows.dy,
                                                 .rows = map.groups(true),
                                                 .down = down_->packed->dgrad,
                                                 .gate_up = gate_up,
                                                 .row_weight = rows.weights,
                                                 .d_gate_up = d_gate_up,
                                                 .weighted_h = weighted_h,
                                                 .d_row_weight = rows.d_weights});
        gate_up = Tensor();
        add(down_, {rows.dy, true}, {weighted_h, false});
    }
    add(gate_up_, {d_gate_up, false}, {rows.x, true});
    Tensor dx = context.activations(map.slots(), rows.x.dim(1));
    ops::grouped_linear(context.exec, d_gate_up, map.groups(false), gate_up_->packed->dgrad, dx);
    return dx;
}

Tensor RoutedExperts::here_backward(const PassContext& context, const Backward& io,
                                    Saved& saved) const {
    const Tensor weights = gather(context.exec, of_choices(io.weights), io.map->slot_choice);
    const Tensor d_slots = context.exec.empty(weights.shape(), DType::f32);
    std::shared_ptr<const std::vector<SlotPart>> parts;
    if (context.expert_sums == ExpertSums::by_grain)
        parts = std::make_shared<const std::vector<SlotPart>>(part_slots(
            context.exec, *io.map, std::vector<int64_t>(static_cast<size_t>(context.grains()), 1)));
    Tensor dx = experts_backward(context,
                                 {.map = io.map,
                                  .parts = std::move(parts),
                                  .experts = {0, io.map->leaves.rows()},
                                  .dy = io.dy,
                                  .x = io.x,
                                  .weights = weights,
                                  .d_weights = d_slots},
                                 saved.gate_up);
    ops::scatter_rows(context.exec, d_slots, io.map->slot_choice, of_choices(io.d_weights));
    return dx;
}

// With experts on several ranks gradients and weights go the way of the tokens.
TokenDispatcher::Move RoutedExperts::wave_backward(
    const PassContext& context, const Backward& io,
    const std::shared_ptr<const TokenExchanges>& waves, size_t number, Saved& saved) const {
    const TokenDispatcher& dispatcher = *context.dispatcher;
    const TokenExchange& wave = (*waves)[number];
    const Map sent = sent_slots(context.exec, io.map, wave), map{waves, &wave.experts};
    Tensor dy = dispatcher.dispatch(wave, gather(context.exec, io.dy, sent->slot_token));
    Tensor x = std::exchange(saved.received.x, {}), gate_up = std::exchange(saved.gate_up, {});
    if (number > 0) {
        x = dispatcher.dispatch(wave, gather(context.exec, io.x, sent->slot_token));
        Tensor h = context.activations(map->slots(), width_);
        gate_up = context.activations(map->slots(), 2 * width_);
        ops::gate_up_swiglu(context.exec, x, map->groups(true), gate_up_->packed->forward, gate_up,
                            h);
    }
    const Tensor row_weights =
        dispatcher.dispatch(wave, gather(context.exec, of_choices(io.weights), sent->slot_choice));
    const Tensor weights = gather(context.exec, row_weights, map->slot_token);
    const Tensor d_slots = context.exec.empty(weights.shape(), DType::f32);
    std::shared_ptr<const std::vector<SlotPart>> parts;
    if (context.expert_sums != ExpertSums::together) parts = {waves, &wave.parts};
    const Tensor dx = experts_backward(
        context,
        {.map = map,
         .parts = std::move(parts),
         .experts = {wave.begin, wave.end, number + 1 == waves->size(), !wave.only},
         .dy = dy,
         .x = x,
         .weights = weights,
         .d_weights = d_slots},
        gate_up);
    x = dy = {};
    ops::scatter_rows(context.exec, d_slots, map->slot_token, row_weights);
    ops::scatter_rows(context.exec, dispatcher.combine(wave, row_weights), sent->slot_choice,
                      of_choices(io.d_weights));
    return dispatcher.start_combine(wave, as_rows(context.exec, dx, wave));
}

RoutedExperts::Slots RoutedExperts::backward(const PassContext& context, const Backward& io,
                                             Saved& saved) const {
    if (context.dispatcher == nullptr) return here_backward(context, io, saved);
    const std::shared_ptr<const TokenExchanges> waves = std::move(saved.received.waves);
    if (waves->size() == 1) return wave_backward(context, io, waves, 0, saved);
    Tensor all = context.activations(io.map->slots(), io.x.dim(1));
    for (size_t number = 0; number < waves->size(); ++number)
        ops::scatter_rows(context.exec, wave_backward(context, io, waves, number, saved).finish(),
                          (*waves)[number].slots, all);
    return all;
}

}  // namespace fucina
