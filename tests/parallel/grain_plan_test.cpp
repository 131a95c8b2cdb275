// Guards against passes or ranks that hold something else than nodes of the grain tree.
#include "parallel/grain_plan.h"

#include <gtest/gtest.h>

#include <string>

namespace fucina {
namespace {

// The expression that a sum over a range makes: "((0 1) 2)".
std::string expression(GrainRange node) {
    if (node.count() == 1) return std::to_string(node.begin);
    return concat("(", expression(first_half(node)), " ", expression(second_half(node)), ")");
}

TEST(GrainPlan, PassesAddUpAlongTheTree) {
    for (int64_t grains = 1; grains <= 33; ++grains) {
        for (int64_t most : {1, 2, 3, 4, 8, 100}) {
            std::vector<std::string> stack;
            size_t held = 0;
            const std::vector<Pass> passes = plan_passes({0, grains}, most);
            for (const Pass& pass : passes) {
                EXPECT_LE(pass.grains.count(), most);
                held = std::max(held, stack.size() + (pass.merges == 0 ? 1 : 0));
                stack.push_back(expression(pass.grains));
                for (int i = 0; i < pass.merges; ++i) {
                    ASSERT_GE(stack.size(), 2u);
                    const std::string last = stack.back();
                    stack.pop_back();
                    stack.back() = concat("(", stack.back(), " ", last, ")");
                }
            }
            ASSERT_EQ(stack.size(), 1u);
            EXPECT_EQ(stack[0], expression({0, grains})) << grains << " by " << most;
            EXPECT_EQ(held_sums(passes), static_cast<int>(held));
        }
    }
}

TEST(GrainPlan, RanksHoldNodesOfTheTree) {
    for (int64_t grains = 1; grains <= 33; ++grains) {
        for (int ranks : {1, 2, 4, 8}) {
            std::vector<GrainRange> level{{0, grains}};
            while (level.size() < static_cast<size_t>(ranks)) {
                std::vector<GrainRange> next;
                for (GrainRange node : level) {
                    next.push_back(first_half(node));
                    next.push_back(second_half(node));
                }
                level = next;
            }
            const auto shares = share_grains(grains, ranks);
            ASSERT_EQ(shares.size(), level.size());
            for (size_t r = 0; r < level.size(); ++r) {
                EXPECT_EQ(shares[r].begin, level[r].begin);
                EXPECT_EQ(shares[r].end, level[r].end);
            }
        }
    }
}

TEST(GrainPlan, OtherSizesShareEvenly) {
    const auto shares = share_grains(8, 3);
    EXPECT_EQ(shares[0].count(), 2);
    EXPECT_EQ(shares[1].count(), 3);
    EXPECT_EQ(shares[2].count(), 3);
    EXPECT_FALSE(ranks_fit_tree(3));
    EXPECT_FALSE(ranks_fit_tree(16));
    EXPECT_FALSE(ranks_fit_tree(0));
}

}  // namespace
}  // namespace fucina
