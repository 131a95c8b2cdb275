#include "model/pass_memory.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "kernels/embedding.h"
#include "model/row_memory.h"

namespace fucina {

namespace {

struct SavedAttention {
    Held x, down, q_latent, q_rstd, c, c_rstd, k_rope, q, kv, o, lse;
};

struct SavedFeedForward {
    Held x, gate_up, shared_gate_up, route, received;
};

struct SavedBlock {
    Held x, x_rstd, mid, mid_rstd;
    SavedAttention attention;
    SavedFeedForward feed_forward;
};

// The layers of `rows` tokens; each function is the namesake of one in model/layers.
class Layers : public RowMemory {
  public:
    Layers(const ModelSpec& spec, const PassShape& shape, Timeline& timeline)
        : RowMemory(shape, timeline), spec_(spec) {}

    // Rows of the experts here.
    Held received(int64_t columns) const {
        const int64_t sent = own_rows() * spec_.moe.router.top_k;
        return hold(shape_.received > 0 ? shape_.received : sent, columns, element());
    }

    void gradient(int64_t elements, bool experts = false) const {
        gradient({elements, experts, in_mtp ? Order::mtp : Order::head_and_blocks});
    }
    // Of the embedding's table.
    void table_gradient() const { gradient({here(spec_.vocab_size) * d(), false, Order::table}); }

    Held forward(bool is_moe, Held x, bool keeps, SavedBlock& saved) const {
        saved.x = std::move(x);
        if (keeps) saved.x_rstd = fp32(1);
        saved.attention.x = activations(d());
        const Held attended = stream_of_own(attention(keeps, saved.attention), d());
        saved.mid = activations(d());
        if (keeps) saved.mid_rstd = fp32(1);
        saved.feed_forward.x = activations(d());
        Held y = is_moe ? moe(keeps, saved.feed_forward)
                        : mlp(spec_.dense_width, keeps, saved.feed_forward.gate_up);
        y = stream_of_own(std::move(y), d());
        drop(saved);
        return y;
    }

    Held backward(bool is_moe, SavedBlock& saved) const {
        if (!saved.attention.x) {
            saved.attention.x = activations(d());
            saved.feed_forward.x = activations(d());
        }
        Held d_normed = is_moe ? moe_backward(saved.feed_forward)
                               : mlp_backward(spec_.dense_width, saved.feed_forward.gate_up);
        d_normed = stream_of_own(std::move(d_normed), d());
        saved.feed_forward = {};
        const Held d_mid = activations(d());
        gradient(d());
        saved.mid = nullptr;
        d_normed = attention_backward(saved.attention);
        Held d_x = activations(d());
        gradient(d());
        saved = {};
        return d_x;
    }

    // Norm and loss with gradients. Takes the final hidden states and what is before their norm.
    Held head(Held x, Held normed) const {
        const int64_t vocabulary = here(spec_.vocab_size), weights = vocabulary * d();
        const Held gathered = whole_of_stream(d()), loss = whole_fp32(1), rstd = fp32(1);
        Held d_normed = shape_.tensor > 1 ? whole_fp32(d()) : whole(d());
        timeline_.make_gradient(weights, false);
        {
            const int64_t of_node = shape_.apart ? shape_.tokens / shape_.leaves : shape_.tokens;
            const int64_t rows = ops::head_loss_rows(of_node, vocabulary, shape_.compute);
            const Held logits = timeline_.hold(rows * vocabulary * 4);
            const Held d_logits = timeline_.hold(rows * (vocabulary + 32) * element());
            // So many sums wait for each other in the tree; the first of them is the gradient.
            const auto sums =
                std::bit_width(static_cast<uint64_t>(shape_.apart ? 1 : shape_.leaves));
            const Held others = timeline_.hold((sums - 1) * weights * 4);
        }
        timeline_.add_gradient(
            {weights, false, spec_.tied_head ? Order::table : Order::head_and_blocks});
        if (shape_.tensor > 1) d_normed = sum_rows(std::move(d_normed), d());
        d_normed = stream_of_own(std::move(d_normed), d());
        Held dx = activations(d());
        gradient(d());
        return dx;
    }
    bool in_mtp = false;

  private:
    using Order = GradExchange::Order;
    void gradient(const GradExchange::Gradient& gradient) const {
        timeline_.make_gradient(gradient.elements, gradient.experts);
        timeline_.add_gradient(gradient);
    }
    int64_t here(int64_t count) const { return count / shape_.tensor; }
    bool exchanges() const { return shape_.experts_here > 0; }
    int64_t heads() const { return here(mla().heads); }
    int64_t d() const { return spec_.hidden_size; }
    const MlaSpec& mla() const { return spec_.attention; }
    int64_t q_width() const { return heads() * mla().qk_dim(); }
    int64_t kv_width() const { return heads() * (mla().nope_dim + mla().v_dim); }
    int64_t o_width() const { return heads() * mla().v_dim; }
    bool q_lora() const { return mla().q_lora_rank > 0; }
    int64_t down_width() const {
        return (q_lora() ? mla().q_lora_rank : q_width()) + mla().kv_lora_rank + mla().rope_dim;
    }
    Held in_fp32() const { return shape_.compute == DType::f32 ? nullptr : own_fp32(d()); }

    void norm_latents(bool keeps, SavedAttention& saved) const {
        if (q_lora()) saved.q_latent = whole(mla().q_lora_rank);
        if (q_lora() && keeps && !saved.q_rstd) saved.q_rstd = fp32(1);
        saved.c = whole(mla().kv_lora_rank);
        if (keeps && !saved.c_rstd) saved.c_rstd = fp32(1);
    }

    Held attention(bool keeps, SavedAttention& saved) const {
        saved.down = activations(down_width());
        saved.k_rope = whole_of_stream(mla().rope_dim);
        norm_latents(keeps, saved);
        if (q_lora()) saved.q = whole(q_width());
        saved.kv = whole(kv_width());
        if (!keeps) saved.q_latent = saved.c = nullptr;  // its caller still holds x
        saved.o = whole(o_width());
        if (keeps) saved.lse = whole_fp32(heads());
        if (!keeps) saved = {.x = saved.x, .o = saved.o};
        Held y = sum_linear(d());
        if (!keeps) saved.o = nullptr;
        return y;
    }

    Held mlp(int64_t width, bool keeps, Held& gate_up) const {
        const Held x = whole_of_stream(d());
        if (keeps) gate_up = whole(2 * here(width));
        const Held h = whole(here(width));
        return sum_linear(d());
    }

    Held moe(bool keeps, SavedFeedForward& saved) const {
        const MoeSpec& spec = spec_.moe;
        {
            const Held logits = own_fp32(spec.router.experts);
            in_fp32();
            // Scores, indices, weights and the map's three lists of slots.
            saved.route = own_fp32(spec.router.experts + 5 * spec.router.top_k);
        }
        const int64_t k = spec.router.top_k;
        const bool again = saved.received != nullptr;
        Held shared, sent;
        if (exchanges() && !again) {
            sent = own(k * d());
            saved.received = received(d());
        }
        if (spec.shared_width > 0) shared = mlp(spec.shared_width, keeps, saved.shared_gate_up);
        sent = nullptr;
        if (keeps) saved.gate_up = received(2 * spec.expert_width);
        Held h = received(spec.expert_width);
        Held slots = received(d());
        h = nullptr;
        if (exchanges() && !again) {
            const Held rows = received(d());
            slots = own(k * d());
        }
        return own(d());
    }

    void drop(SavedBlock& saved) const {
        if (shape_.recompute != RecomputeKind::norm && shape_.recompute != RecomputeKind::mla_up)
            return;
        saved.feed_forward.x = nullptr;
        saved.attention.x = saved.attention.q_latent = saved.attention.c = nullptr;
        if (shape_.recompute == RecomputeKind::mla_up)
            saved.attention.q = saved.attention.kv = nullptr;
    }

    Held mlp_backward(int64_t width, Held& gate_up) const {
        const Held dy = whole_of_stream(d()), d_gate_up = whole(2 * here(width));
        Held h = whole(here(width));
        gate_up = nullptr;
        gradient(d() * here(width));
        h = nullptr;
        {
            const Held x = whole_of_stream(d());
            gradient(2 * here(width) * d());
        }
        return sum_linear(d());
    }

    Held moe_backward(SavedFeedForward& saved) const {
        const MoeSpec& spec = spec_.moe;
        const int64_t k = spec.router.top_k, width = spec.expert_width;
        const int64_t experts = exchanges() ? shape_.experts_here : spec.router.experts;
        const Held d_weights = own_fp32(k);
        Held d_rows;
        if (exchanges()) {
            const Held sent = own(k * d());
            d_rows = received(d());
        }
        Held d_gate_up = received(2 * width), weighted_h = received(width);
        saved.gate_up = nullptr;
        gradient(experts * d() * width, true);
        weighted_h = nullptr;
        gradient(experts * 2 * width * d(), true);
        Held slots = received(d());
        d_gate_up = saved.received = d_rows = nullptr;
        Held shared, rows;
        if (exchanges()) {
            rows = received(d());
            slots = own(k * d());
        }
        if (spec.shared_width > 0) shared = mlp_backward(spec.shared_width, saved.shared_gate_up);
        const Held router = route_backward();
        rows = nullptr;
        return own(d());
    }

    Held route_backward() const {
        const int64_t experts = spec_.moe.router.experts;
        const bool shares = shape_.tensor > 1 && shape_.balance;
        Held scores = shares ? whole_fp32(experts + spec_.moe.router.top_k) : nullptr;
        const Held d_scores = shape_.balance ? whole_fp32(experts) : nullptr;
        scores = nullptr;
        const Held d_logits = own_fp32(experts);
        {
            const Held x = in_fp32();
            gradient(experts * d());
        }
        return own_fp32(d());
    }

    Held attention_backward(SavedAttention& saved) const {
        if (!saved.c) norm_latents(true, saved);
        if (q_lora() && !saved.q) saved.q = whole(q_width());
        if (!saved.kv) saved.kv = whole(kv_width());
        Held d_o = whole(o_width());
        {
            const Held dy = whole_of_stream(d());
            gradient(d() * o_width());
        }
        const Held d_down = activations(down_width());
        const Held d_q = q_lora() ? whole(q_width()) : nullptr;
        const Held d_kv = whole(kv_width());
        whole_fp32(heads() * mla().rope_dim);  // of ops::attention_backward, for the shared keys
        saved.q = saved.kv = saved.o = saved.lse = d_o = nullptr;
        if (q_lora()) {
            gradient(q_width() * mla().q_lora_rank);
            const Held d_latent = latent_gradient(mla().q_lora_rank);
            gradient(mla().q_lora_rank);
        }
        gradient(kv_width() * mla().kv_lora_rank);
        const Held d_c = latent_gradient(mla().kv_lora_rank);
        gradient(mla().kv_lora_rank);
        gradient(down_width() * d());
        return activations(d());
    }

    Held latent_gradient(int64_t columns) const {
        return stream_of_own(sum_linear(columns), columns);
    }

    const ModelSpec& spec_;
};

// A block under any kind of recomputation.
struct Block {
    bool is_moe = false;
    bool again = false;
    Held input;
    SavedBlock saved;

    Held forward(const Layers& layers, Held x) {
        if (!again) return layers.forward(is_moe, std::move(x), true, saved);
        input = x;
        SavedBlock dropped;
        Held y = layers.forward(is_moe, std::move(x), false, dropped);
        saved.feed_forward.received = dropped.feed_forward.received;
        return y;
    }
    Held backward(const Layers& layers) {
        if (again) layers.forward(is_moe, std::exchange(input, nullptr), true, saved);
        return layers.backward(is_moe, saved);
    }
};

std::vector<Block> blocks_of(const ModelSpec& spec, const PassShape& shape) {
    std::vector<Block> blocks;
    for (int64_t layer = shape.begin; layer < (shape.end < 0 ? spec.layers : shape.end); ++layer)
        blocks.push_back(
            {.is_moe = spec.is_moe(layer), .again = shape.recompute == RecomputeKind::block});
    return blocks;
}

// MTP's forward and backward; gives the gradient of the hidden states.
Held mtp(const ModelSpec& spec, const PassShape& shape, Layers& layers) {
    const int64_t d = spec.hidden_size;
    layers.in_mtp = true;
    const Held embedded = layers.activations(d), gathered = layers.activations(d);
    const Held joined = layers.activations(2 * d), rstds = layers.fp32(2);
    Block block{.is_moe = spec.is_moe(spec.layers),
                .again = shape.recompute == RecomputeKind::block};
    Held x = block.forward(layers, layers.activations(d));
    Held dx = layers.head(std::move(x), layers.activations(d));
    dx = block.backward(layers);
    layers.gradient(2 * d * d);
    const Held d_joined = layers.activations(2 * d), d_embedded = layers.activations(d);
    layers.gradient(d);
    layers.table_gradient();
    const Held d_gathered = layers.activations(d);
    layers.gradient(d);
    layers.in_mtp = false;
    return layers.activations(d);
}

// Forward and backward.
void go_through(const ModelSpec& spec, const PassShape& shape, Timeline& timeline) {
    Layers layers(spec, shape, timeline);
    Held beside = timeline.hold(shape.beside.forward);
    std::vector<Block> blocks = blocks_of(spec, shape);
    Held x = layers.activations(spec.hidden_size), dx;
    for (Block& block : blocks) x = block.forward(layers, std::move(x));
    timeline.begin_backward();
    beside = nullptr;
    beside = timeline.hold(shape.beside.backward);
    if (shape.has_head) {
        Held normed = layers.activations(spec.hidden_size), d_hidden;
        if (shape.with_mtp) d_hidden = mtp(spec, shape, layers);
        dx = layers.head(std::move(x), std::move(normed));
    } else {
        x = nullptr;
        dx = layers.activations(spec.hidden_size);
    }
    for (size_t i = blocks.size(); i-- > 0;) dx = blocks[i].backward(layers);
    if (shape.has_embedding) layers.table_gradient();
}

}  // namespace

PassMemory pass_memory(const ModelSpec& spec, const PassShape& shape) {
    Timeline* heard = nullptr;
    GradExchange exchange(shape, [&](int64_t bytes) { heard->change_gradients(bytes); });
    if (shape.bucket > 0) {
        Timeline noted(shape, exchange);
        go_through(spec, shape, noted);
        exchange.plan();
    }
    Timeline timeline(shape, exchange);
    heard = &timeline;
    go_through(spec, shape, timeline);
    exchange.end();
    return timeline.most();
}

int64_t kept_activations(const ModelSpec& spec, const PassShape& shape) {
    GradExchange none(shape, {});
    Timeline timeline(shape, none);
    const Layers layers(spec, shape, timeline);
    std::vector<Block> blocks = blocks_of(spec, shape);
    Held x = layers.activations(spec.hidden_size);
    for (Block& block : blocks) x = block.forward(layers, std::move(x));
    if (!shape.has_head) x = nullptr;
    return timeline.activations();
}

}  // namespace fucina
