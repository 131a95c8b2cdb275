// The inner kernels of the cross-entropy, one table per instruction set.
#pragma once
#include <cstdint>

#include "kernels/cpu/levels.h"

namespace fucina::cpu {

struct LossRow {
    const float* logits;
    int64_t vocab;
    int32_t label;  // negative: ignored
    float scale;
};

// Returns the negative log-likelihood; gradient [vocab] receives scale · (softmax - one at label)
// unless it is null.
struct HeadLossKernels {
    float (*bf16)(const LossRow& row, void* gradient);
    float (*f32)(const LossRow& row, void* gradient);
};

FUCINA_DECLARE_LEVELS(HeadLossKernels, kHeadLossKernels)

}  // namespace fucina::cpu
