#include "model/layers/decoder_block.h"

#include "kernels/moe.h"

namespace fucina {

namespace {

std::variant<Mlp, Moe> make_feed_forward(ParameterSet& set, const std::string& prefix,
                                         const ModelSpec& spec, int64_t report_index) {
    if (report_index < 0) return Mlp(set, prefix + "mlp.", spec.hidden_size, spec.dense_width);
    return Moe(set, prefix + "moe.", spec, report_index);
}

}  // namespace

DecoderBlock::DecoderBlock(ParameterSet& set, const std::string& prefix, const ModelSpec& spec,
                           int64_t report_index)
    : attention_norm_(set, prefix + "attention_norm", spec.hidden_size, spec.norm_eps),
      attention_(set, prefix + "attention.", spec),
      mlp_norm_(set, prefix + "mlp_norm", spec.hidden_size, spec.norm_eps),
      feed_forward_(make_feed_forward(set, prefix, spec, report_index)) {}

DecoderBlock::Out DecoderBlock::forward(const PassContext& context, const In& in,
                                        Saved& saved) const {
    saved.x = in.x;
    const Tensor x = attention_norm_.forward(context, in.x, saved.x_rstd);
    const Tensor attended = attention_.forward(context, {x}, saved.attention).y;
    if (!context.keeps) saved.attention = {};
    Out out = finish(context, attended, saved);
    drop(context.recompute, saved);
    return out;
}

// The residual sum, its norm and the feed-forward.
DecoderBlock::Out DecoderBlock::finish(const PassContext& context, const Tensor& attended,
                                       Saved& saved) const {
    saved.mid = context.activations(attended.rows(), attended.dim(1));
    if (context.keeps) saved.mid_rstd = context.exec.empty({attended.rows()}, DType::f32);
    Tensor x = context.activations(attended.rows(), attended.dim(1));
    ops::add_rmsnorm(context.exec, attended, saved.x, saved.mid, mlp_norm_.gain->value,
                     mlp_norm_.eps, x, saved.mid_rstd);
    if (const Moe* moe = std::get_if<Moe>(&feed_forward_)) {
        if (!std::holds_alternative<Moe::Saved>(saved.feed_forward))
            saved.feed_forward.emplace<Moe::Saved>();
        return {moe->forward(context, {x, saved.mid}, std::get<Moe::Saved>(saved.feed_forward)).y};
    }
    const Tensor y =
        context.stream(std::get<Mlp>(feed_forward_)
                           .forward(context, {x}, saved.feed_forward.emplace<Mlp::Saved>())
                           .y);
    ops::add(context.exec, y, saved.mid, y);
    return {y};
}

// Under `block` a forward keeps nothing, or it is the one that backward has asked for.
void DecoderBlock::drop(RecomputeKind kind, Saved& saved) const {
    if (kind == RecomputeKind::none || kind == RecomputeKind::block) return;
    attention_.drop(kind, saved.attention);
    std::visit([](auto& feed_forward) { feed_forward.drop_input(); }, saved.feed_forward);
}

DecoderBlock::Kept DecoderBlock::kept(Saved& saved) const {
    auto* moe = std::get_if<Moe::Saved>(&saved.feed_forward);
    if (moe == nullptr || moe->experts.received.waves == nullptr) return std::nullopt;
    return Moe::Kept{std::move(moe->route), std::move(moe->experts.received)};
}

void DecoderBlock::restore(Kept kept, Saved& saved) const {
    if (!kept) return;
    auto& moe = saved.feed_forward.emplace<Moe::Saved>();
    moe.route = std::move(kept->route);
    moe.experts.received = std::move(kept->received);
}

DecoderBlock::In DecoderBlock::backward(const PassContext& context, const Out& grad,
                                        Saved& saved) const {
    if (!saved.attention.x.defined()) {
        saved.attention.x = attention_norm_.forward(context, saved.x, saved.x_rstd);
        const Tensor x = mlp_norm_.forward(context, saved.mid, saved.mid_rstd);
        std::visit([&](auto& feed_forward) { feed_forward.restore_input(x); }, saved.feed_forward);
    }
    Tensor d_normed;
    if (const Moe* moe = std::get_if<Moe>(&feed_forward_))
        d_normed = moe->backward(context, {grad.x}, std::get<Moe::Saved>(saved.feed_forward)).x;
    else
        d_normed = context.stream(
            std::get<Mlp>(feed_forward_)
                .backward(context, {grad.x}, std::get<Mlp::Saved>(saved.feed_forward))
                .x);
    Tensor d_mid = context.activations(grad.x.rows(), grad.x.dim(1));
    mlp_norm_.backward(context, d_normed, saved.mid, saved.mid_rstd, grad.x, d_mid);
    saved.mid = Tensor();
    d_normed = attention_.backward(context, {d_mid}, saved.attention).x;
    Tensor d_x = context.activations(grad.x.rows(), grad.x.dim(1));
    attention_norm_.backward(context, d_normed, saved.x, saved.x_rstd, d_mid, d_x);
    saved = Saved();
    return {d_x};
}

DecoderBlock::Out DecoderBlock::extend(const PassContext& context, const In& in,
                                       std::span<const Continuation> texts, size_t layer) const {
    Saved saved;
    saved.x = in.x;
    const Tensor x = attention_norm_.forward(context, in.x, saved.x_rstd);
    return finish(context, attention_.extend(context, {x}, texts, layer).y, saved);
}

}  // namespace fucina
