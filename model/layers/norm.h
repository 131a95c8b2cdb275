// Norm: RMSNorm with its gain, as the other layers use it.
#pragma once
#include <string>

#include "kernels/norm.h"
#include "model/parameter_set.h"
#include "model/pass_context.h"

namespace fucina {

struct Norm {
    Parameter* gain = nullptr;  // [D]
    float eps = 1e-6f;

    Norm(ParameterSet& set, const std::string& name, int64_t width, double epsilon)
        : gain(set.plain(name, {width})), eps(static_cast<float>(epsilon)) {}

    // x [T, D] -> [T, D]; rstd fp32 [T] is allocated if undefined, where backward follows.
    Tensor forward(const PassContext& context, const Tensor& x, Tensor& rstd) const {
        Tensor y = context.activations(x.rows(), x.dim(1));
        into(context, x, y, rstd);
        return y;
    }
    void into(const PassContext& context, const Tensor& x, const Tensor& y, Tensor& rstd) const {
        if (!rstd.defined() && context.keeps) rstd = context.exec.empty({x.rows()}, DType::f32);
        ops::rmsnorm(context.exec, x, gain->value, eps, y, rstd);
    }
    // dx may alias residual_grad, which is added to it if defined.
    void backward(const PassContext& context, const Tensor& dy, const Tensor& x, const Tensor& rstd,
                  const Tensor& residual_grad, const Tensor& dx) const {
        context.weight_grads->now(
            *gain, 0, *context.chunk_nodes, [&](const SumNode& node, const Tensor& dw) {
                ops::rmsnorm_backward(context.exec, {.dy = node.rows(dy),
                                                     .x = node.rows(x),
                                                     .w = gain->value,
                                                     .rstd = node.rows(rstd),
                                                     .residual_grad = node.rows(residual_grad),
                                                     .dx = node.rows(dx),
                                                     .dw = dw,
                                                     .tree = node.tree});
            });
    }
};

}  // namespace fucina
