// AdamW (Loshchilov & Hutter 2019) by torch.optim.AdamW's formula, the global gradient norm, and
// casts.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/exact_sum.h"
#include "kernels/exec.h"
#include "kernels/packed_copies.h"

namespace fucina {

struct AdamW {
    float learning_rate = 0, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, weight_decay = 0;
    float bias_correction1 = 1, bias_correction2 = 1;  // 1 - beta^t
    float grad_scale = 1;                              // clip factor

    // What an element's update multiplies by, on every back end.
    float decay() const { return 1.0f - learning_rate * weight_decay; }
    float rate() const { return learning_rate / bias_correction1; }
    float inverse_root() const { return 1.0f / std::sqrt(bias_correction2); }
};

namespace ops {

// w, grad fp32; m, v fp32 or bf16 (rounded to nearest); elementwise, all contiguous and of one
// size:
//   g = grad·grad_scale; w *= 1 - lr·wd; m = b1·m + (1-b1)·g; v = b2·v + (1-b2)·g²;
//   w -= lr/bias_correction1 · m / (sqrt(v)/sqrt(bias_correction2) + eps)
// copies: null, or w's, forward and dgrad, which are remade from the new weights while these lie in
// cache.
void adamw(const Exec& exec, const AdamW& step, const Tensor& w, const Tensor& grad,
           const Tensor& m, const Tensor& v, PackedCopies* copies = nullptr);

// The sum of the squares of x, contiguous fp32 [.., N] of rows N, so that x may be cut between
// rows, and rows between their `chunks` equal parts, without changing it: blocks of at most 512
// elements of one part of one row; in a block fp64, 32 chains (element i in chain i % 32) added in
// order; blocks add up without rounding. NaN and infinity propagate.
ExactSum sum_of_squares(const Exec& exec, const Tensor& x, int64_t chunks = 1);

// The sum of x, fp32 and contiguous, without rounding.
ExactSum exact_sum(const Exec& exec, const Tensor& x);

// y += x, fp32 elementwise (the merge of two tree nodes; y is the earlier one).
void add_in_place(const Exec& exec, const Tensor& y, const Tensor& x);

// out = x in out's dtype (f32 <-> bf16), same shape, strides honoured.
void cast(const Exec& exec, const Tensor& x, const Tensor& out);

}  // namespace ops
}  // namespace fucina
