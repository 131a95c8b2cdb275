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
        if (!rstd.defined() && context.keeps) rstd = Tensor::empty({x.rows()}, DType::f32);
        ops::rmsnorm(x, gain->value, eps, y, rstd);
    }
    // dx may alias residual_grad, which is added to it if defined.
    void backward(const Tensor& dy, const Tensor& x, const Tensor& rstd,
                  const Tensor& residual_grad, const Tensor& dx, const LeafTree& tree) const {
        ops::rmsnorm_backward({.dy = dy,
                               .x = x,
                               .w = gain->value,
                               .rstd = rstd,
                               .residual_grad = residual_grad,
                               .dx = dx,
                               .dw = gain->grad(),
                               .tree = tree});
    }
};

}  // namespace fucina
