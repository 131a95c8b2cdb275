#include "model/layers/moe.h"

#include <algorithm>
#include <cmath>

#include "kernels/gemm.h"
#include "kernels/optimizer.h"

namespace fucina {
namespace {

Tensor in_fp32(const Exec& exec, const Tensor& x) {
    if (x.dtype() == DType::f32) return x;
    Tensor copy = exec.empty(x.shape(), DType::f32);
    ops::cast(exec, x, copy);
    return copy;
}

}  // namespace

Moe::Moe(ParameterSet& set, const std::string& prefix, const ModelSpec& spec, int64_t report_index)
    : spec_(spec.moe),
      report_index_(report_index),
      router_(set.matrix(prefix + "router", {spec_.router.experts, spec.hidden_size})),
      bias_(set.buffer(prefix + "router_bias", {spec_.router.experts})),
      experts_(set, prefix, spec) {
    router_->packed->fp32 = true;
    if (spec_.shared_width > 0)
        shared_.emplace(set, prefix + "shared.", spec.hidden_size, spec_.shared_width);
}

void Moe::route(const PassContext& context, const Tensor& x, Saved& saved) const {
    const int64_t tokens = x.rows();
    const RouterConfig& config = spec_.router;
    Tensor logits = context.exec.empty({tokens, config.experts}, DType::f32);
    ops::linear(context.exec, in_fp32(context.exec, x), router_->packed->forward, logits);
    Route& route = saved.route;
    route.scores = context.exec.empty({tokens, config.experts}, DType::f32);
    route.indices = context.exec.empty({tokens, config.top_k}, DType::i32);
    route.weights = context.exec.empty({tokens, config.top_k}, DType::f32);
    ops::router(context.exec, config, logits, bias_->value, route.scores, route.indices,
                route.weights);
    route.map = std::make_shared<const TokenMap>(
        ops::make_token_map(context.exec, route.indices, config.experts, context.own_grains,
                            room(context, route.indices)));
}

// What each expert takes of own rows, as ops::make_token_map has it. Of a grain that
// tensor-parallel ranks share, those before us fill it first.
Tensor Moe::room(const PassContext& context, const Tensor& indices) const {
    if (context.expert_capacity == 0) return Tensor();
    const int64_t experts = spec_.router.experts;
    const double share = context.expert_capacity * static_cast<double>(spec_.router.top_k) /
                         static_cast<double>(experts);
    const std::span<const int64_t> whole = context.grain_offsets;
    std::vector<int64_t> room;
    for (size_t grain = 0; grain + 1 < whole.size(); ++grain) {
        const auto tokens = static_cast<double>(whole[grain + 1] - whole[grain]);
        room.insert(room.end(), static_cast<size_t>(experts),
                    static_cast<int64_t>(std::ceil(share * tokens)));
    }
    const auto as_matrix = [&] {
        return tensor_of(context.exec, room).view({context.grains(), experts});
    };
    if (context.tensor == nullptr) return as_matrix();
    const Tensor counts = context.exec.empty({context.grains(), experts}, DType::i64);
    ops::count_choices(context.exec, indices, context.own_grains, counts);
    const HostValues<int64_t> chosen_here(context.exec, counts);
    const std::span<const int64_t> chosen = chosen_here.span();
    std::vector<int64_t> all(chosen.size() * static_cast<size_t>(context.tensor->size()));
    context.tensor->all_gather(std::as_bytes(chosen), std::as_writable_bytes(std::span(all)));
    for (size_t i = 0; i < room.size() * static_cast<size_t>(context.tensor->rank()); ++i) {
        int64_t& left = room[i % room.size()];
        left = std::max<int64_t>(left - all[i], 0);
    }
    return as_matrix();
}

Tensor Moe::combine(const PassContext& context, const Tensor& slots, const Saved& saved,
                    const Tensor& shared, const Tensor& residual) const {
    Tensor y = context.activations(saved.route.weights.rows(), saved.x.dim(1));
    ops::combine(context.exec,
                 {.slots = slots,
                  .weights = saved.route.weights,
                  .add1 = shared,
                  .add2 = context.own(residual),
                  .out = y},
                 *saved.route.map);
    return context.stream(y);
}

Moe::Out Moe::forward(const PassContext& context, const In& in, Saved& saved) const {
    saved.x = in.x;
    const bool again = saved.route.map != nullptr;
    const Tensor own = context.own(in.x);
    std::optional<TokenDispatcher::Move> sent;
    if (!again) {
        route(context, own, saved);
        sent = experts_.send(context, own, saved.route.map, saved.experts);
    }
    Tensor shared;  // computed while tokens travel
    if (shared_) shared = shared_->forward(context, {in.x}, saved.shared).y;
    const Tensor slots =
        experts_.forward(context, own, saved.route.map, std::move(sent), saved.experts);
    if (!slots.defined()) return {};
    return {combine(context, slots, saved, shared, in.residual)};
}

// Adds this layer's counts and balance loss to the report; the loss's gradient with respect to
// scores is returned. It is of whole sequences: the first of the ranks that share them reports it.
Tensor Moe::report_balance(const PassContext& context, const Route& route) const {
    std::vector<int64_t>& counts =
        context.report->expert_counts[static_cast<size_t>(report_index_)];
    const HostValues<int64_t> offsets(context.exec, route.map->expert_offsets);
    for (size_t e = 0; e < counts.size(); ++e) counts[e] = offsets[e + 1] - offsets[e];
    if (route.map->dropped.defined()) {
        const HostValues<int64_t> dropped(context.exec, route.map->dropped);
        for (size_t e = 0; e < counts.size(); ++e) {
            counts[e] += dropped[e];
            context.report->dropped += dropped[e];
        }
    }
    if (context.balance_scale == 0) return {};

    Tensor scores = route.scores, indices = route.indices;
    if (context.shares) {
        scores = context.shares->all(scores);
        indices = context.shares->all(indices);
    }
    const Tensor d_scores = context.exec.empty(scores.shape(), DType::f32);
    const ExactSum balance =
        ops::balance_loss(context.exec, spec_.router, scores, indices, context.sequence_offsets,
                          static_cast<float>(context.balance_scale), d_scores);
    if (!context.shares || context.shares->rank() == 0) context.report->balance.add(balance);
    return context.shares ? context.shares->own(d_scores) : d_scores;
}

Tensor Moe::route_backward(const PassContext& context, const Tensor& own_x, const Tensor& d_weights,
                           Saved& saved) const {
    const Route& route = saved.route;
    const Tensor d_scores = report_balance(context, route);
    Tensor d_logits = context.exec.empty(route.scores.shape(), DType::f32);
    ops::router_backward(context.exec, spec_.router, route.scores, route.indices, route.weights,
                         d_weights, d_scores, d_logits);
    const Tensor x = in_fp32(context.exec, own_x);
    context.weight_grads->add(matrix_grad(router_, d_logits, x, context.own_nodes));
    Tensor dx = context.exec.empty(x.shape(), DType::f32);
    ops::linear(context.exec, d_logits, router_->packed->dgrad, dx);
    return dx;
}

Moe::In Moe::backward(const PassContext& context, const Out& grad, Saved& saved) const {
    Tensor d_weights = context.exec.empty(saved.route.weights.shape(), DType::f32);
    context.exec.zero(d_weights);
    const Tensor x = context.own(saved.x);
    RoutedExperts::Slots slots = experts_.backward(context,
                                                   {.dy = context.own(grad.y),
                                                    .x = x,
                                                    .weights = saved.route.weights,
                                                    .d_weights = d_weights,
                                                    .map = saved.route.map},
                                                   saved.experts);
    Tensor shared;  // computed while gradients travel, as are the router's
    if (shared_) shared = shared_->backward(context, {grad.y}, saved.shared).x;
    const Tensor router = route_backward(context, x, d_weights, saved);
    const Tensor dx = context.activations(router.rows(), router.dim(1));
    ops::combine(context.exec, {.slots = slots.finish(), .add1 = router, .add2 = shared, .out = dx},
                 *saved.route.map);
    saved = Saved();
    return {context.stream(dx), {}};
}

}  // namespace fucina
