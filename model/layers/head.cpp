#include "model/layers/head.h"

#include "kernels/gemm.h"
#include "model/layers/elementwise.h"

namespace fucina {

Tensor Head::forward(const PassContext& context, const In& in, Saved& saved) const {
    saved.x = in.x;
    saved.normed = norm_.forward(context, in.x, saved.rstd);
    return saved.normed;
}

Tensor Head::logits(const Tensor& normed) const {
    Tensor logits = Tensor::empty({normed.rows(), projection_->value.dim(0)}, DType::f32);
    ops::linear(normed, projection_->forward, logits);
    return logits;
}

void Head::loss(const PassContext& context, const Tensor& normed, Loss& io) const {
    io.loss = Tensor::empty({normed.rows()}, DType::f32);
    ops::head_loss({.x = normed,
                    .head = projection_->forward,
                    .labels = io.labels,
                    .chunks = context.chunks,
                    .loss = io.loss});
}

Head::In Head::loss_backward(const PassContext& context, Loss& io, const Tensor& more,
                             Saved& saved) const {
    io.loss = Tensor::empty({saved.normed.rows()}, DType::f32);
    Tensor d_normed = context.activations(saved.normed.rows(), saved.normed.dim(1));
    context.weight_grads->now(*projection_, use_, *context.nodes,
                              [&](const SumNode& node, const Tensor& dw) {
                                  ops::head_loss({.x = node.rows(saved.normed),
                                                  .head = projection_->forward,
                                                  .head_dgrad = projection_->dgrad,
                                                  .labels = io.labels + node.begin,
                                                  .scale = static_cast<float>(io.scale),
                                                  .chunks = context.chunks,
                                                  .loss = node.rows(io.loss),
                                                  .dx = node.rows(d_normed),
                                                  .dw = dw,
                                                  .tree = node.tree});
                              });
    if (more.defined()) add(d_normed, more, d_normed);
    In in{context.activations(saved.x.rows(), saved.x.dim(1))};
    norm_.backward(context, d_normed, saved.x, saved.rstd, {}, in.x);
    saved = Saved();
    return in;
}

}  // namespace fucina
