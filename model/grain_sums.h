// Sums of per-token losses by grain, fp64, in token order.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/tensor.h"

namespace fucina {

// loss fp32 [T] -> [grains]
inline std::vector<double> sum_by_grain(const Tensor& loss,
                                        std::span<const int64_t> grain_offsets) {
    std::vector<double> sums;
    const float* values = loss.data<float>();
    for (size_t g = 0; g + 1 < grain_offsets.size(); ++g) {
        double sum = 0;
        for (int64_t t = grain_offsets[g]; t < grain_offsets[g + 1]; ++t) sum += values[t];
        sums.push_back(sum);
    }
    return sums;
}

}  // namespace fucina
