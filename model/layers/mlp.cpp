#include "model/layers/mlp.h"

#include <array>

#include "kernels/gemm.h"

namespace fucina {

Mlp::Mlp(ParameterSet& set, const std::string& prefix, int64_t hidden, int64_t width)
    : width_(width),
      gate_up_(set.matrix(prefix + "gate_up", {2, width, hidden}, PackKind::gate_up)),
      down_(set.matrix(prefix + "down", {hidden, width})) {
    gate_up_->dgrad.cut = set.cut(2);
    down_->forward.cut = set.cut();
}

Mlp::Out Mlp::forward(const PassContext& context, const In& in, Saved& saved) const {
    const int64_t tokens = in.x.rows();
    const std::array<int64_t, 2> rows = {0, tokens};
    saved.x = in.x;
    if (context.keeps) saved.gate_up = context.activations(tokens, 2 * width_);
    Tensor h = context.activations(tokens, width_);
    ops::gate_up_swiglu(in.x, {rows}, gate_up_->forward, saved.gate_up, h);
    Out out{context.activations(tokens, in.x.dim(1))};
    ops::linear(h, down_->forward, out.y);
    return out;
}

Mlp::In Mlp::backward(const PassContext& context, const Out& grad, Saved& saved) const {
    const int64_t tokens = grad.y.rows();
    const std::array<int64_t, 2> rows = {0, tokens};
    Tensor d_gate_up = context.activations(tokens, 2 * width_);
    {
        Tensor h = context.activations(tokens, width_);
        ops::down_swiglu_backward({.dy = grad.y,
                                   .rows = {rows},
                                   .down = down_->dgrad,
                                   .gate_up = saved.gate_up,
                                   .d_gate_up = d_gate_up,
                                   .weighted_h = h});
        saved.gate_up = Tensor();
        context.weight_grads->add(matrix_grad(down_, grad.y, h, context.nodes));
    }
    context.weight_grads->add(matrix_grad(gate_up_, d_gate_up, saved.x, context.nodes));
    In in{context.activations(tokens, saved.x.dim(1))};
    ops::linear(d_gate_up, gate_up_->dgrad, in.x);
    saved = Saved();
    return in;
}

}  // namespace fucina
