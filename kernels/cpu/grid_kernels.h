// The inner loops of kernels/grid_sum.h, on ranges.
#pragma once
#include <cstdint>

#include "kernels/cpu/levels.h"

namespace fucina::cpu {

struct GridKernels {
    // sum = or += x; whether all are less than bound.
    bool (*set)(const float* x, float bound, int64_t count, int64_t* sum);
    bool (*add)(const float* x, float bound, int64_t count, int64_t* sum);
    void (*add_integers)(const int64_t* x, int64_t count, int64_t* y);
    void (*round)(const int64_t* sum, int64_t count, float* out);
};

FUCINA_DECLARE_LEVELS(GridKernels, kGridKernels)

}  // namespace fucina::cpu
