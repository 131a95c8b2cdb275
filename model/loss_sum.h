// The sum of per-token losses.
#pragma once
#include "kernels/exact_sum.h"
#include "kernels/tensor.h"

namespace fucina {

// losses: fp32 [T]
inline ExactSum sum_losses(const Tensor& losses) {
    ExactSum sum;
    for (int64_t t = 0; t < losses.size(); ++t) sum.add(double{losses.data<float>()[t]});
    return sum;
}

}  // namespace fucina
