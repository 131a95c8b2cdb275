// When a run says that its router does not balance.
#include "trainer/balance_watch.h"

#include <gtest/gtest.h>

#include "tests/support/expect_text.h"
#include "tests/support/tiny_model.h"

namespace fucina {
namespace {

using Counts = std::vector<std::vector<int64_t>>;

ModelSpec eight_experts() {
    ModelSpec spec = test::tiny_spec();
    spec.layers = 3;
    spec.dense_layers = 1;
    spec.moe.router.experts = 8;
    spec.moe.router.top_k = 2;
    return spec;
}

const std::vector<int64_t> kEven(8, 100);
const std::vector<int64_t> kCollapsed{10, 390, 0, 0, 0, 0, 380, 20};

TEST(BalanceWatch, LoadIsTheBusiestOverTheMean) {
    EXPECT_EQ(expert_load(kEven), 1);
    EXPECT_EQ(expert_load(kCollapsed), 3.9);
    EXPECT_EQ(expert_load({0, 0}), 0);
}

TEST(BalanceWatch, NamesALayerThatStaysUneven) {
    const ModelSpec spec = eight_experts();
    BalanceWatch watch(spec, 1e-3, 2e-3);
    int64_t step = 0;
    for (; step < 10; ++step) EXPECT_FALSE(watch.after(step + 1, {kEven, kEven, kEven}));
    for (; step < 10 + BalanceWatch::kSteps - 1; ++step)
        EXPECT_FALSE(watch.after(step + 1, {kEven, kCollapsed, kEven}));
    const std::optional<std::string> line = watch.after(++step, {kEven, kCollapsed, kEven});
    ASSERT_TRUE(line);
    EXPECT_EQ(*line,
              "WARNING: layer 2: the 2 busiest of 8 experts have taken most tokens since step 11, "
              "96 % now; train.router_bias_update = 0.001 does not keep up with "
              "train.learning_rate = 0.002; try 0.01");
    const int64_t said = step;
    while (++step < 2 * said) EXPECT_FALSE(watch.after(step, {kEven, kCollapsed, kCollapsed}));
    const std::optional<std::string> again = watch.after(step, {kEven, kCollapsed, kCollapsed});
    ASSERT_TRUE(again) << "at twice the step";
    EXPECT_CONTAINS(*again, "so in 2 layers");
}

TEST(BalanceWatch, AnEvenStepBeginsTheCountAnew) {
    const ModelSpec spec = eight_experts();
    BalanceWatch watch(spec, 1e-3, 2e-3);
    for (int64_t step = 1; step < 10 * BalanceWatch::kSteps; ++step)
        EXPECT_FALSE(watch.after(step, {step % BalanceWatch::kSteps == 0 ? kEven : kCollapsed}));
}

TEST(BalanceWatch, NamesTheMtpLayerAndABiasThatStandsStill) {
    const ModelSpec spec = eight_experts();
    BalanceWatch watch(spec, 0, 3e-4);
    std::optional<std::string> line;
    for (int64_t step = 1; step <= BalanceWatch::kSteps; ++step)
        line = watch.after(step, {kEven, kEven, kCollapsed});
    ASSERT_TRUE(line);
    EXPECT_CONTAINS(*line, "the MTP layer: the 2 busiest");
    EXPECT_CONTAINS(*line, "train.router_bias_update = 0 balances nothing; try 0.0015");
}

// With few experts and most of them chosen, even and collapsed differ by less than chance does.
TEST(BalanceWatch, SaysNothingWhereNothingCanCollapse) {
    ModelSpec spec = eight_experts();
    spec.moe.router.top_k = 6;
    BalanceWatch watch(spec, 1e-3, 2e-3);
    for (int64_t step = 1; step <= 100; ++step)
        EXPECT_FALSE(watch.after(step, {{120, 120, 120, 120, 120, 120, 40, 40}}));
}

}  // namespace
}  // namespace fucina
