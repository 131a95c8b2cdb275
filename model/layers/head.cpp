#include "model/layers/head.h"

#include <algorithm>

#include "kernels/gemm.h"
#include "kernels/moe.h"

namespace fucina {

Tensor Head::forward(const PassContext& context, const In& in, Saved& saved) const {
    saved.x = in.x;
    saved.normed = norm_.forward(context, in.x, saved.rstd);
    return saved.normed;
}

Tensor Head::logits(const PassContext& context, const Tensor& normed) const {
    const int64_t rows = normed.rows(), here = projection_->box.extent[0];
    Tensor logits = context.exec.empty({rows, here}, DType::f32);
    ops::linear(context.exec, normed, projection_->packed->forward, logits);
    if (!context.shares) return logits;
    const int ranks = context.shares->ranks();
    const Tensor parts = context.exec.empty({ranks * rows, here}, DType::f32);
    context.shares->gather(logits, parts);
    Tensor all = context.exec.empty({rows, ranks * here}, DType::f32);
    for (int rank = 0; rank < ranks; ++rank)
        context.exec.copy(parts.slice(rank * rows, (rank + 1) * rows),
                          all.columns(rank * here, (rank + 1) * here));
    return all;
}

// What is the same for all rows.
ops::HeadLoss Head::head_loss(const PassContext& context) const {
    ops::HeadLoss io;
    io.head = projection_->packed->forward;
    io.chunks = context.chunks;
    if (!context.shares) return io;
    io.ranks = context.shares->ranks();
    io.chunks = std::max<int64_t>(context.chunks / io.ranks, 1);
    io.first = projection_->box.offset[0];
    io.gather = [shares = context.shares](const Tensor& own, const Tensor& all) {
        shares->gather(own, all);
    };
    return io;
}

void Head::loss(const PassContext& context, const Tensor& normed, Loss& io) const {
    io.loss = context.exec.empty({context.tokens}, DType::f32);
    ops::HeadLoss pass = head_loss(context);
    pass.x = context.whole(normed);
    pass.labels = io.labels;
    pass.loss = io.loss;
    ops::head_loss(context.exec, pass);
}

Head::In Head::loss_backward(const PassContext& context, Loss& io, const Tensor& more,
                             Saved& saved) const {
    const Tensor normed = context.whole(saved.normed);
    io.loss = context.exec.empty({context.tokens}, DType::f32);
    Tensor d_normed =
        context.exec.empty(normed.shape(), context.shares ? DType::f32 : context.dtype);
    context.weight_grads->now(*projection_, use_, *context.nodes,
                              [&](const SumNode& node, const Tensor& dw) {
                                  ops::HeadLoss pass = head_loss(context);
                                  pass.x = node.rows(normed);
                                  pass.head_dgrad = projection_->packed->dgrad;
                                  pass.labels = node.rows(io.labels);
                                  pass.scale = static_cast<float>(io.scale);
                                  pass.loss = node.rows(io.loss);
                                  pass.dx = node.rows(d_normed);
                                  pass.dw = dw;
                                  pass.tree = node.tree;
                                  ops::head_loss(context.exec, pass);
                              });
    if (context.shares) d_normed = context.stream(context.shares->sum(d_normed, context.dtype));
    if (more.defined()) ops::add(context.exec, d_normed, more, d_normed);
    In in{context.activations(saved.x.rows(), saved.x.dim(1))};
    norm_.backward(context, d_normed, saved.x, saved.rstd, {}, in.x);
    saved = Saved();
    return in;
}

}  // namespace fucina
