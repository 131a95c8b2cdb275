// Guards against passes or ranks that hold something else than nodes of the trees, and against
// waves that depend on ranks.
#include "parallel/batch_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace fucina {
namespace {

// The expression that a sum over a range makes: "((0 1) 2)".
std::string expression(GrainRange node) {
    if (node.count() == 1) return std::to_string(node.begin);
    return concat("(", expression(first_half(node)), " ", expression(second_half(node)), ")");
}

constexpr SumOrder kOneWave{.waves = false};

TEST(BatchPlan, PassesAddUpAlongTheTree) {
    for (int64_t grains = 1; grains <= 33; ++grains) {
        for (int64_t most : {1, 2, 3, 4, 8, 100}) {
            std::vector<std::string> stack;
            for (const Pass& pass : BatchPlan(grains, kOneWave, 1).passes(0, most)) {
                EXPECT_LE(pass.grains.count(), most);
                stack.push_back(expression(pass.grains));
                for (int i = 0; i < pass.merges; ++i) {
                    ASSERT_GE(stack.size(), 2u);
                    const std::string last = stack.back();
                    stack.pop_back();
                    stack.back() = concat("(", stack.back(), " ", last, ")");
                }
                EXPECT_EQ(pass.ends_wave, pass.grains.end == grains);
            }
            ASSERT_EQ(stack.size(), 1u);
            EXPECT_EQ(stack[0], expression({0, grains})) << grains << " by " << most;
        }
    }
}

TEST(BatchPlan, WavesAreEvenAndNoLargerThanTheReplicas) {
    for (int64_t grains = 1; grains <= 40; ++grains) {
        const BatchPlan plan(grains, {.replicas = 8}, 2);
        ASSERT_EQ(static_cast<int64_t>(plan.waves().size()), (grains + 7) / 8);
        int64_t next = 0;
        for (const GrainRange wave : plan.waves()) {
            EXPECT_EQ(wave.begin, next);
            EXPECT_LE(wave.count(), 8);
            EXPECT_LE(grains / static_cast<int64_t>(plan.waves().size()), wave.count());
            next = wave.end;
        }
        EXPECT_EQ(next, grains);
        EXPECT_EQ(plan.grains(), grains);
    }
}

// A rank has the grains of its replicas, whatever the size of a wave, and the tree over replicas is
// the one over a wave's grains.
TEST(BatchPlan, RanksHoldReplicas) {
    for (const int replicas : {1, 2, 8, 16}) {
        for (int64_t grains = 1; grains <= 40; ++grains) {
            for (int ranks = 1; ranks <= replicas; ranks *= 2) {
                const BatchPlan plan(grains, {.replicas = replicas}, ranks);
                for (size_t wave = 0; wave < plan.waves().size(); ++wave) {
                    int64_t next = plan.waves()[wave].begin;
                    for (int rank = 0; rank < ranks; ++rank) {
                        const GrainRange share = plan.share(wave, rank);
                        EXPECT_EQ(share.begin, next);
                        next = share.end;
                        for (int64_t grain = share.begin; grain < share.end; ++grain)
                            EXPECT_EQ(plan.replica(wave, grain) * ranks / replicas, rank);
                    }
                    EXPECT_EQ(next, plan.waves()[wave].end);
                }
            }
        }
    }
}

// Absent replicas skipped.
std::string over_replicas(const std::map<int, std::string>& sums, int begin, int count) {
    if (count == 1) return sums.contains(begin) ? sums.at(begin) : "";
    const std::string a = over_replicas(sums, begin, count / 2);
    const std::string b = over_replicas(sums, begin + count / 2, count / 2);
    return a.empty() || b.empty() ? a + b : concat("(", a, " ", b, ")");
}

TEST(BatchPlan, OneWaveIsTheTreeOverItsReplicas) {
    for (int64_t grains = 1; grains <= 16; ++grains) {
        const BatchPlan plan(grains, {.replicas = 16}, 1);
        std::map<int, std::string> sums;
        for (int64_t grain = 0; grain < grains; ++grain)
            sums[plan.replica(0, grain)] = std::to_string(grain);
        EXPECT_EQ(over_replicas(sums, 0, 16), expression({0, grains}));
    }
}

TEST(BatchPlan, OtherSizesShareEvenly) {
    const BatchPlan plan(8, kOneWave, 3);
    EXPECT_EQ(plan.share(0, 0).count(), 2);
    EXPECT_EQ(plan.share(0, 1).count(), 3);
    EXPECT_EQ(plan.share(0, 2).count(), 3);
    EXPECT_FALSE(ranks_fit_tree(3, kOneWave));
    EXPECT_FALSE(ranks_fit_tree(16, kOneWave));
    EXPECT_FALSE(ranks_fit_tree(0, kOneWave));
    EXPECT_TRUE(BatchPlan(2, kOneWave, 8).holds(0));
    EXPECT_FALSE(BatchPlan(2, kOneWave, 8).holds(1));
}

}  // namespace
}  // namespace fucina
