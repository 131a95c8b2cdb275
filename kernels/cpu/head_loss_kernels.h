// The inner kernels of the cross-entropy, one table per instruction set.
#pragma once
#include <cstdint>

#include "kernels/cpu/levels.h"

namespace fucina::cpu {

// Some columns of a row of logits, after the row's maximum and sum are known.
struct LossRow {
    const float* logits;
    int64_t count;
    int64_t label;     // column of the label, or negative: not among these
    float shift, sum;  // the row's maximum; of the whole row's e^(logit - shift)
    float scale;
};

// The phases of a row. The first two and the last take any run of columns.
struct HeadLossKernels {
    float (*largest)(const float* logits, int64_t count);
    float (*sum_of_exponentials)(const float* logits, int64_t count, float shift);
    // Negative log-likelihood; target is the label's logit.
    float (*loss)(float target, float shift, float sum);
    // gradient [count] receives scale · (softmax - one at label).
    void (*gradient_bf16)(const LossRow& row, void* gradient);
    void (*gradient_f32)(const LossRow& row, void* gradient);
};

FUCINA_DECLARE_LEVELS(HeadLossKernels, kHeadLossKernels)

}  // namespace fucina::cpu
