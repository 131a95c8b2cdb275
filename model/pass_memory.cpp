#include "model/pass_memory.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/embedding.h"

namespace fucina {

namespace {

// Memory that is held until the last copy of its handle goes, as a Tensor's is.
using Held = std::shared_ptr<const void>;

class Timeline {
  public:
    explicit Timeline(const PassShape& shape) : shape_(shape) {}

    Held hold(int64_t bytes) {
        activations_ += bytes;
        look();
        return {this, [this, bytes](const void*) { activations_ -= bytes; }};
    }
    void make_gradient(int64_t elements, bool experts) {
        gradients_ += sums(experts) * 4 * elements;
        (experts ? experts_ : others_) += 4 * elements;
        look();
    }
    // It is whole, and added to earlier ones at once.
    void add_gradient(int64_t elements, bool experts) {
        const bool apart = shape_.apart && !experts;
        if (shape_.integers) {
            gradients_ -= (shape_.last ? 8 : 4) * elements;  // a whole sum becomes fp32
            return;
        }
        gradients_ -= (apart ? sums(experts) - shape_.new_replicas : shape_.merges) * 4 * elements;
        if (apart && shape_.last)
            gradients_ -= (shape_.replicas + shape_.new_replicas - 1) * 4 * elements;
    }

    // Those of earlier passes were there all the time, beside whatever there was.
    PassMemory most() const {
        PassMemory result = most_;
        result.all_gradients = experts_ + others_;
        result.expert_gradients = experts_;
        const int64_t before =
            shape_.integers
                ? shape_.held * 2 * result.all_gradients
                : shape_.held * experts_ + (shape_.apart ? shape_.replicas : shape_.held) * others_;
        result.gradients += before;
        result.together += before;
        return result;
    }

  private:
    // That a gradient takes while it is made: a grain's at a time, beside those of new replicas.
    int sums(bool experts) const {
        if (shape_.integers) return shape_.held > 0 ? 1 : 3;
        if (!shape_.apart || experts) return 1;
        return shape_.new_replicas + (shape_.leaves > shape_.new_replicas ? 1 : 0);
    }
    void look() {
        most_.activations = std::max(most_.activations, activations_);
        most_.gradients = std::max(most_.gradients, gradients_);
        most_.together = std::max(most_.together, activations_ + gradients_);
    }

    const PassShape shape_;
    PassMemory most_;
    int64_t activations_ = 0, gradients_ = 0;
    int64_t experts_ = 0, others_ = 0;  // bytes of all gradients
};

struct SavedAttention {
    Held x, down, q_latent, q_rstd, c, c_rstd, q, kv, o, lse;
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
class Layers {
  public:
    Layers(const ModelSpec& spec, const PassShape& shape, Timeline& timeline)
        : spec_(spec), shape_(shape), timeline_(timeline) {}

    Held activations(int64_t columns) const {
        return timeline_.hold(shape_.tokens * columns * element());
    }
    Held fp32(int64_t columns) const { return timeline_.hold(shape_.tokens * columns * 4); }
    void gradient(int64_t elements, bool experts = false) const {
        timeline_.make_gradient(elements, experts);
        timeline_.add_gradient(elements, experts);
    }

    Held forward(bool is_moe, Held x, bool keeps, SavedBlock& saved) const {
        saved.x = std::move(x);
        if (keeps) saved.x_rstd = fp32(1);
        saved.attention.x = activations(d());
        const Held attended = attention(keeps, saved.attention);
        saved.mid = activations(d());
        if (keeps) saved.mid_rstd = fp32(1);
        saved.feed_forward.x = activations(d());
        Held y = is_moe ? moe(keeps, saved.feed_forward)
                        : mlp(spec_.dense_width, keeps, saved.feed_forward.gate_up);
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
        const int64_t weights = spec_.vocab_size * d();
        const Held loss = fp32(1), rstd = fp32(1), d_normed = activations(d());
        timeline_.make_gradient(weights, false);
        {
            const int64_t of_node = shape_.apart ? shape_.tokens / shape_.leaves : shape_.tokens;
            const int64_t rows = ops::head_loss_rows(of_node, spec_.vocab_size, shape_.compute);
            const Held logits = timeline_.hold(rows * spec_.vocab_size * 4);
            const Held d_logits = timeline_.hold(rows * (spec_.vocab_size + 32) * element());
            // So many sums wait for each other in the tree; the first of them is the gradient.
            const auto sums =
                std::bit_width(static_cast<uint64_t>(shape_.apart ? 1 : shape_.leaves));
            const Held others = timeline_.hold((sums - 1) * weights * 4);
        }
        timeline_.add_gradient(weights, false);
        Held dx = activations(d());
        gradient(d());
        return dx;
    }

  private:
    bool exchanges() const { return shape_.experts_here > 0; }
    int64_t element() const { return size_of(shape_.compute); }
    int64_t d() const { return spec_.hidden_size; }
    const MlaSpec& mla() const { return spec_.attention; }
    int64_t q_width() const { return mla().heads * mla().qk_dim(); }
    int64_t kv_width() const { return mla().heads * (mla().nope_dim + mla().v_dim); }
    int64_t o_width() const { return mla().heads * mla().v_dim; }
    bool q_lora() const { return mla().q_lora_rank > 0; }
    int64_t down_width() const {
        return (q_lora() ? mla().q_lora_rank : q_width()) + mla().kv_lora_rank + mla().rope_dim;
    }
    Held in_fp32() const { return shape_.compute == DType::f32 ? nullptr : fp32(d()); }

    void norm_latents(bool keeps, SavedAttention& saved) const {
        if (q_lora()) saved.q_latent = activations(mla().q_lora_rank);
        if (q_lora() && keeps && !saved.q_rstd) saved.q_rstd = fp32(1);
        saved.c = activations(mla().kv_lora_rank);
        if (keeps && !saved.c_rstd) saved.c_rstd = fp32(1);
    }

    Held attention(bool keeps, SavedAttention& saved) const {
        saved.down = activations(down_width());
        norm_latents(keeps, saved);
        if (q_lora()) saved.q = activations(q_width());
        saved.kv = activations(kv_width());
        if (!keeps) saved.q_latent = saved.c = nullptr;  // its caller still holds x
        saved.o = activations(o_width());
        if (keeps) saved.lse = fp32(mla().heads);
        if (!keeps) saved = {.x = saved.x, .o = saved.o};
        Held y = activations(d());
        if (!keeps) saved.o = nullptr;
        return y;
    }

    Held mlp(int64_t width, bool keeps, Held& gate_up) const {
        if (keeps) gate_up = activations(2 * width);
        const Held h = activations(width);
        return activations(d());
    }

    Held moe(bool keeps, SavedFeedForward& saved) const {
        const MoeSpec& spec = spec_.moe;
        {
            const Held logits = fp32(spec.router.experts);
            in_fp32();
            saved.route = fp32(spec.router.experts + 2 * spec.router.top_k);
        }
        Held shared;
        if (spec.shared_width > 0) shared = mlp(spec.shared_width, keeps, saved.shared_gate_up);
        const int64_t k = spec.router.top_k;
        const bool again = saved.received != nullptr;
        if (exchanges() && !again) {
            const Held sent = activations(k * d());
            saved.received = activations(k * d());
        }
        if (keeps) saved.gate_up = activations(2 * k * spec.expert_width);
        Held h = activations(k * spec.expert_width);
        Held slots = activations(k * d());
        h = nullptr;
        if (exchanges() && !again) {
            const Held rows = activations(k * d());
            slots = activations(k * d());
        }
        return activations(d());
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
        const Held d_gate_up = activations(2 * width);
        Held h = activations(width);
        gate_up = nullptr;
        gradient(d() * width);
        h = nullptr;
        gradient(2 * width * d());
        return activations(d());
    }

    Held moe_backward(SavedFeedForward& saved) const {
        const MoeSpec& spec = spec_.moe;
        const int64_t k = spec.router.top_k, width = spec.expert_width;
        const int64_t experts = exchanges() ? shape_.experts_here : spec.router.experts;
        const Held d_weights = fp32(k);
        Held d_rows;
        if (exchanges()) {
            const Held sent = activations(k * d());
            d_rows = activations(k * d());
        }
        Held d_gate_up = activations(2 * k * width), weighted_h = activations(k * width);
        saved.gate_up = nullptr;
        gradient(experts * d() * width, true);
        weighted_h = nullptr;
        gradient(experts * 2 * width * d(), true);
        Held slots = activations(k * d());
        d_gate_up = saved.received = d_rows = nullptr;
        if (exchanges()) {
            const Held rows = activations(k * d());
            slots = activations(k * d());
        }
        Held shared;
        if (spec.shared_width > 0) shared = mlp_backward(spec.shared_width, saved.shared_gate_up);
        const Held router = route_backward();
        return activations(d());
    }

    Held route_backward() const {
        const int64_t experts = spec_.moe.router.experts;
        const Held d_scores = shape_.balance ? fp32(experts) : nullptr, d_logits = fp32(experts);
        {
            const Held x = in_fp32();
            gradient(experts * d());
        }
        return fp32(d());
    }

    Held attention_backward(SavedAttention& saved) const {
        if (!saved.c) norm_latents(true, saved);
        if (q_lora() && !saved.q) saved.q = activations(q_width());
        if (!saved.kv) saved.kv = activations(kv_width());
        Held d_o = activations(o_width());
        gradient(d() * o_width());
        const Held d_down = activations(down_width());
        const Held d_q = q_lora() ? activations(q_width()) : nullptr;
        const Held d_kv = activations(kv_width());
        fp32(mla().heads * mla().rope_dim);  // of ops::attention_backward, for the shared keys
        saved.q = saved.kv = saved.o = saved.lse = d_o = nullptr;
        if (q_lora()) {
            gradient(q_width() * mla().q_lora_rank);
            const Held d_latent = activations(mla().q_lora_rank);
            gradient(mla().q_lora_rank);
        }
        gradient(kv_width() * mla().kv_lora_rank);
        const Held d_c = activations(mla().kv_lora_rank);
        gradient(mla().kv_lora_rank);
        gradient(down_width() * d());
        return activations(d());
    }

    const ModelSpec& spec_;
    const PassShape& shape_;
    Timeline& timeline_;
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

// MTP's forward and backward; gives the gradient of the hidden states.
Held mtp(const ModelSpec& spec, const PassShape& shape, const Layers& layers) {
    const int64_t d = spec.hidden_size;
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
    layers.gradient(spec.vocab_size * d);
    const Held d_gathered = layers.activations(d);
    layers.gradient(d);
    return layers.activations(d);
}

}  // namespace

PassMemory pass_memory(const ModelSpec& spec, const PassShape& shape) {
    Timeline timeline(shape);
    const Layers layers(spec, shape, timeline);
    std::vector<Block> blocks;
    for (int64_t layer = 0; layer < spec.layers; ++layer)
        blocks.push_back(
            {.is_moe = spec.is_moe(layer), .again = shape.recompute == RecomputeKind::block});
    Held x = layers.activations(spec.hidden_size);
    for (Block& block : blocks) x = block.forward(layers, std::move(x));
    Held normed = layers.activations(spec.hidden_size), d_hidden;
    if (shape.with_mtp) d_hidden = mtp(spec, shape, layers);
    Held dx = layers.head(std::move(x), std::move(normed));
    d_hidden = nullptr;
    for (size_t i = blocks.size(); i-- > 0;) dx = blocks[i].backward(layers);
    layers.gradient(spec.vocab_size * spec.hidden_size);
    dx = nullptr;
    return timeline.most();
}

}  // namespace fucina
