// The router on values that no model should give it.
#include <gtest/gtest.h>

#include "kernels/moe.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

// Whatever the logits, each token gets top_k different experts, ascending, and no more: what
// follows indexes with them, and the non-finite guard comes only at the end of the step.
TEST(Router, ChoosesDifferentExpertsWhateverTheLogits) {
    const RouterConfig config{.experts = 12, .top_k = 5, .groups = 3, .topk_groups = 2};
    const Tensor logits = test::non_finite_logits(40, 12), scores = logits.clone();
    const Tensor guarded = Tensor::zeros({41, 5}, DType::i32), indices = guarded.slice(0, 40);
    const Tensor weights = Tensor::empty({40, 5}, DType::f32);
    ops::router(kHost, config, logits, {}, scores, indices, weights);
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
