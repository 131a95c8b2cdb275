#include "kernels/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/cpu/row_ops.h"
#include "kernels/cuda/rope.h"

namespace fucina {
namespace {

double mscale_factor(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

double attention_factor(const YarnScaling& yarn) {
    if (yarn.attention_factor) return *yarn.attention_factor;
    if (yarn.mscale != 0 && yarn.mscale_all_dim != 0)
        return mscale_factor(yarn.factor, yarn.mscale) /
               mscale_factor(yarn.factor, yarn.mscale_all_dim);
    return mscale_factor(yarn.factor, 1);
}

// Inverse wavelengths, in fp32 as the published models compute angles.
std::vector<float> inverse_frequencies(int64_t rotated, double theta,
                                       const std::optional<YarnScaling>& yarn) {
    const auto r = static_cast<double>(rotated);
    double low = 0, high = 0;
    if (yarn) {
        const auto dimension_of = [&](double rotations) {
            const auto length = static_cast<double>(yarn->original_max_position);
            return r * std::log(length / (rotations * 2 * std::numbers::pi)) /
                   (2 * std::log(theta));
        };
        low = dimension_of(yarn->beta_fast), high = dimension_of(yarn->beta_slow);
        if (yarn->truncate) low = std::floor(low), high = std::ceil(high);
        low = std::max(low, 0.0), high = std::min(high, r - 1);
        if (low == high) high += 0.001;
    }
    std::vector<float> inverse;
    for (int64_t i = 0; i < rotated / 2; ++i) {
        const double plain = std::pow(theta, -2.0 * static_cast<double>(i) / r);
        const double ramp =
            yarn ? std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0) : 0.0;
        const double scaled = yarn ? plain / yarn->factor : plain;
        inverse.push_back(static_cast<float>(ramp * scaled + (1 - ramp) * plain));
    }
    return inverse;
}

}  // namespace

double yarn_softmax_scale(const std::optional<YarnScaling>& yarn) {
    if (!yarn || yarn->mscale_all_dim == 0) return 1;
    const double factor = mscale_factor(yarn->factor, yarn->mscale_all_dim);
    return factor * factor;
}

RopeTable make_rope_table(int64_t positions, int64_t rotated, double theta,
                          const std::optional<YarnScaling>& yarn, RopeLayout layout) {
    FUCINA_CHECK(rotated > 0 && rotated % 2 == 0, "rope of ", rotated, " columns");
    const std::vector<float> inverse = inverse_frequencies(rotated, theta, yarn);
    const double factor = yarn ? attention_factor(*yarn) : 1;
    RopeTable table{Tensor::empty({positions, rotated / 2}, DType::f32),
                    Tensor::empty({positions, rotated / 2}, DType::f32), layout};
    for (int64_t p = 0; p < positions; ++p)
        for (size_t i = 0; i < inverse.size(); ++i) {
            const float angle = static_cast<float>(p) * inverse[i];
            table.cos.row<float>(p)[i] = static_cast<float>(std::cos(double{angle}) * factor);
            table.sin.row<float>(p)[i] = static_cast<float>(std::sin(double{angle}) * factor);
        }
    return table;
}

namespace ops {

void rope(const Exec& exec, const Tensor& x, int64_t heads, const Tensor& positions,
          const RopeTable& table, bool inverse) {
    const int64_t rotated = 2 * table.cos.row_size();
    FUCINA_CHECK(heads > 0 && x.row_size() % heads == 0 && rotated <= x.row_size() / heads &&
                     rotated <= 512 && positions.size() == x.rows() &&
                     (x.dtype() == DType::f32 || x.dtype() == DType::bf16),
                 "rope of ", heads, " heads, ", rotated, " rotated columns (at most 512), on ",
                 x.describe());
    FUCINA_RUN(exec, rope, x, heads, positions, table, inverse);
}

}  // namespace ops
}  // namespace fucina
