#include "model/layers/mlp.h"

#include "kernels/gemm.h"

namespace fucina {

Mlp::Mlp(ParameterSet& set, const std::string& prefix, int64_t hidden, int64_t width)
    : width_(set.own(width)),
      gate_up_(
          set.matrix(prefix + "gate_up", {2, width, hidden}, {.tensor = 1}, PackKind::gate_up)),
      down_(set.matrix(prefix + "down", {hidden, width}, {.tensor = 1})) {
    gate_up_->packed->dgrad.cut = set.cut(2);
    down_->packed->forward.cut = set.cut();
}

Mlp::Out Mlp::forward(const PassContext& context, const In& in, Saved& saved) const {
    saved.x = in.x;
    const Tensor x = context.whole(in.x);
    if (context.keeps) saved.gate_up = context.activations(x.rows(), 2 * width_);
    Tensor h = context.activations(x.rows(), width_);
    ops::gate_up_swiglu(context.exec, x, {.rows = x.rows()}, gate_up_->packed->forward,
                        saved.gate_up, h);
    return {context.sum_linear(h, down_->packed->forward)};
}

Mlp::In Mlp::backward(const PassContext& context, const Out& grad, Saved& saved) const {
    const Tensor dy = context.whole(grad.y);
    Tensor d_gate_up = context.activations(dy.rows(), 2 * width_);
    {
        Tensor h = context.activations(dy.rows(), width_);
        ops::down_swiglu_backward(context.exec, {.dy = dy,
                                                 .rows = {.rows = dy.rows()},
                                                 .down = down_->packed->dgrad,
                                                 .gate_up = saved.gate_up,
                                                 .d_gate_up = d_gate_up,
                                                 .weighted_h = h});
        saved.gate_up = Tensor();
        context.weight_grads->add(matrix_grad(down_, dy, h, context.nodes));
    }
    context.weight_grads->add(
        matrix_grad(gate_up_, d_gate_up, context.whole(saved.x), context.nodes));
    In in{context.sum_linear(d_gate_up, gate_up_->packed->dgrad)};
    saved = Saved();
    return in;
}

}  // namespace fucina
