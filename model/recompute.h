// What backward computes again instead of keeping. Recomputed values are bit-identical: the same
// kernels see the same inputs in the same order.
#pragma once
#include <utility>

namespace fucina {

enum class RecomputeKind {
    none,
    norm,    // RMSNorm outputs (SwiGLU's product is never kept)
    mla_up,  // and the per-head queries, keys and values
    block,   // everything but each block's input
};

// A layer that under `block` keeps its input, and what it should not do again (Layer::Kept:
// routing, and rows that other ranks sent), and runs forward again in backward.
template <class Layer>
class Recompute {
  public:
    using In = typename Layer::In;
    using Out = typename Layer::Out;
    struct Saved {
        typename Layer::Saved layer;  // under the other kinds
        In in;
        typename Layer::Kept kept;
    };

    explicit Recompute(const Layer& layer) : layer_(layer) {}

    template <class Context>
    Out forward(const Context& context, const In& in, Saved& saved) const {
        if (context.recompute != RecomputeKind::block)
            return layer_.forward(context, in, saved.layer);
        saved.in = in;
        Context alone = context;
        alone.keeps = false;
        typename Layer::Saved dropped;
        Out out = layer_.forward(alone, in, dropped);
        saved.kept = layer_.kept(dropped);
        return out;
    }

    template <class Context>
    In backward(const Context& context, const Out& grad, Saved& saved) const {
        if (context.recompute != RecomputeKind::block)
            return layer_.backward(context, grad, saved.layer);
        typename Layer::Saved again;
        layer_.restore(std::move(saved.kept), again);
        layer_.forward(context, std::exchange(saved.in, {}), again);
        return layer_.backward(context, grad, again);
    }

  private:
    const Layer& layer_;
};

}  // namespace fucina
