// RMSNorm (Zhang & Sennrich 2019), fp32 inside: y = w · round(x · rstd), rstd = 1/sqrt(mean(x²) +
// eps), where round is to the activation dtype (the Llama/DeepSeek order of rounding).
#pragma once
#include "kernels/exec.h"
#include "kernels/leaf_tree.h"

namespace fucina::ops {

// What both norms are, for the back ends: residual and sum, or rstd, may be undefined.
struct RmsNorm {
    Tensor x, residual, sum, w, y, rstd;
    float eps = 0;
};

// x, y [T, D] of one dtype, w fp32 [D]; rstd fp32 [T] may be undefined.
void rmsnorm(const Exec& exec, const Tensor& x, const Tensor& w, float eps, const Tensor& y,
             const Tensor& rstd);

// sum = x + residual (rounded once to the dtype), y = rmsnorm(sum). sum may alias x or residual.
void add_rmsnorm(const Exec& exec, const Tensor& x, const Tensor& residual, const Tensor& sum,
                 const Tensor& w, float eps, const Tensor& y, const Tensor& rstd);

struct RmsNormBackward {
    Tensor dy, x;          // [T, D]
    Tensor w;              // fp32 [D]
    Tensor rstd;           // fp32 [T]
    Tensor residual_grad;  // [T, D] added to dx before rounding, or undefined
    Tensor dx;             // out [T, D]; may alias residual_grad
    Tensor dw;             // out fp32 [D], overwritten; summed along tree; or undefined
    LeafTree tree;
};
void rmsnorm_backward(const Exec& exec, const RmsNormBackward& io);

}  // namespace fucina::ops
