// The router on values that no model should give it.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/moe.h"

namespace fucina {
namespace {

// Whatever the logits, each token gets top_k different experts, ascending, and no more: what
// follows indexes with them, and the non-finite guard comes only at the end of the step.
TEST(Router, ChoosesDifferentExpertsWhateverTheLogits) {
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    constexpr float kInf = std::numeric_limits<float>::infinity();
    const RouterConfig config{.experts = 12, .top_k = 5, .groups = 3, .topk_groups = 2};
    const Tensor logits = Tensor::zeros({40, 12}, DType::f32), scores = logits.clone();
    for (int64_t t = 0; t < 40; ++t)
        for (int64_t e = 0; e < 12; ++e)
            logits.row<float>(t)[e] = (e * 7 + t) % 5 < t % 5 ? kNan : e % 3 == 0 ? kInf : -kInf;
    const Tensor guarded = Tensor::zeros({41, 5}, DType::i32), indices = guarded.slice(0, 40);
    const Tensor weights = Tensor::empty({40, 5}, DType::f32);
    ops::router(config, logits, {}, scores, indices, weights);
    for (int64_t t = 0; t < 40; ++t)
        for (int64_t j = 0; j < 5; ++j) {
            const int32_t expert = indices.row<int32_t>(t)[j];
            ASSERT_LT(expert, 12);
            ASSERT_GT(expert, j == 0 ? -1 : indices.row<int32_t>(t)[j - 1]);
        }
    for (int64_t j = 0; j < 5; ++j) ASSERT_EQ(guarded.row<int32_t>(40)[j], 0);
}

}  // namespace
}  // namespace fucina
