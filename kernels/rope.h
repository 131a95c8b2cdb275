// Rotary position embedding (Su et al. 2021) with YaRN scaling (Peng et al. 2023) and DeepSeek's
// mscale.
#pragma once
#include <cstdint>
#include <optional>

#include "kernels/exec.h"

namespace fucina {

enum class RopeLayout { interleaved, half_split };  // pairs (2i, 2i+1), or (i, i + r/2)

struct YarnScaling {
    double factor = 1, beta_fast = 32, beta_slow = 1;
    int64_t original_max_position = 4096;
    double mscale = 0, mscale_all_dim = 0;  // 0: not given
    std::optional<double> attention_factor;
    bool truncate = true;
};

struct RopeTable {
    Tensor cos, sin;  // fp32 [positions, r/2], attention factor included
    RopeLayout layout = RopeLayout::interleaved;
};

// What MLA multiplies its softmax scale by: f(factor, mscale_all_dim)², 1 without YaRN.
double yarn_softmax_scale(const std::optional<YarnScaling>& yarn);

RopeTable make_rope_table(int64_t positions, int64_t rotated, double theta,
                          const std::optional<YarnScaling>& yarn, RopeLayout layout);

namespace ops {

// Rotates, in place, the last `r` columns of each head of x: x is [T, heads * head_dim] (a view is
// fine), positions i32 [T]. inverse: rotate by minus the angle, which is the backward.
void rope(const Exec& exec, const Tensor& x, int64_t heads, const Tensor& positions,
          const RopeTable& table, bool inverse);

}  // namespace ops
}  // namespace fucina
