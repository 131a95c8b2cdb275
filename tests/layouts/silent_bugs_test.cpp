// Bugs of other systems that trained another model in silence where parallelisms met, each by its
// report. What they have in common is that one rank alone does it right.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/layouts/train_layout.h"

namespace fucina {
namespace {

using test::Overrides;
using test::Trained;

const Trained& one_rank() {
    static const Trained trained = test::train({}, test::all_losses());
    return trained;
}

Overrides with(const Overrides& more) {
    Overrides all = test::all_losses();
    all.insert(all.end(), more.begin(), more.end());
    return all;
}

std::vector<float> floats(const Trained& trained, const std::string& name) {
    const std::vector<std::byte>& bytes = trained.state.at(name);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

// NVIDIA/Megatron-LM#1628, #5916: with experts over ranks the norm left out other ranks' experts.
TEST(SilentBugs, GradientNormHasTheExpertsOfAllRanks) {
    for (const int expert : {2, 4}) {
        const Trained got = test::train({4, expert}, test::all_losses());
        for (size_t step = 0; step < test::kSteps; ++step)
            EXPECT_EQ(got.steps[step].grad_norm, one_rank().steps[step].grad_norm);
    }
}

// pytorch/pytorch#160285, ByteDance-Seed/VeOmni#205, Megatron-LM#7165: experts' gradients were
// scaled by the number of ranks that share them out, or divided by it. Without clipping and Adam's
// own scaling (one step, no moments yet) m is a tenth of the gradient.
TEST(SilentBugs, GradientsOfExpertsHaveTheirScale) {
    const Overrides base = with({"train.clip_norm=0"});
    const std::string name = "m layers.1.moe.experts.down";
    const std::vector<float> expected = floats(test::train({}, base), name);
    for (const int expert : {1, 2, 4})
        EXPECT_EQ(floats(test::train({4, expert}, base), name), expected) << expert;
}

// NVIDIA-NeMo/Automodel#3816: each group of ranks clipped with a norm of its own, and shared
// weights drifted apart. test::train compares what ranks hold alike.
TEST(SilentBugs, SharedWeightsDoNotDriftApart) {
    const Trained got = test::train({4, 2}, with({"train.clip_norm=0.01"}));
    EXPECT_EQ(got.state.at("weight embedding"),
              test::train({}, with({"train.clip_norm=0.01"})).state.at("weight embedding"));
}

// Automodel#3359: the balance loss was not divided by the number of accumulated passes.
TEST(SilentBugs, BalanceLossIsNotAddedUpOverPasses) {
    for (const int ranks : {1, 4}) {
        const Trained got =
            test::train({ranks, ranks, {"train.micro_batch=1", "train.merge_passes=false"}},
                        test::all_losses());
        EXPECT_EQ(got.steps[0].balance_loss, one_rank().steps[0].balance_loss);
        EXPECT_EQ(floats(got, "weight layers.1.moe.router"),
                  floats(one_rank(), "weight layers.1.moe.router"));
    }
}

// NVIDIA-NeMo/Megatron-Bridge#5165: the balance loss's coefficient became 0 on the way.
TEST(SilentBugs, BalanceLossHasAnEffect) {
    EXPECT_NE(
        floats(test::train({4, 4}, with({"train.balance_loss=0"})), "weight layers.1.moe.router"),
        floats(one_rank(), "weight layers.1.moe.router"));
}

// pytorch/torchtitan#1593: recomputation counted tokens twice, and biases moved by rubbish.
TEST(SilentBugs, RecomputationCountsTokensOnce) {
    for (const int expert : {1, 2}) {
        const Trained got = test::train({2, expert, {"train.recompute=block"}}, test::all_losses());
        for (size_t step = 0; step < test::kSteps; ++step)
            EXPECT_EQ(got.steps[step].expert_counts, one_rank().steps[step].expert_counts);
        EXPECT_EQ(floats(got, "weight layers.1.moe.router_bias"),
                  floats(one_rank(), "weight layers.1.moe.router_bias"));
    }
    int64_t tokens = 0;
    for (const int64_t count : one_rank().steps[0].expert_counts[0]) tokens += count;
    EXPECT_EQ(tokens, 2 * one_rank().steps[0].tokens) << "each token goes to two experts";
}

// deepspeedai/DeepSpeed#5066, PaddleFormers#3010, Automodel#935: a rank whose experts got no token
// left out a collective, and all others waited.
TEST(SilentBugs, ARankWithoutTokensForItsExpertsTakesPart) {
    const Overrides base = with({"train.router_bias_update=0"});
    const Trained expected = test::train({}, base, test::starve(2));
    const Trained got = test::train({2, 2}, base, test::starve(2));
    EXPECT_EQ(got.state, expected.state);
}

// transformers#45440: groups that are not kept were masked with 0, which is more than a negative
// bias leaves of the others.
TEST(SilentBugs, MaskedGroupsLoseToNegativeBiases) {
    const auto sink = [](Model& model) {
        for (Parameter* parameter : model.parameters()) {
            if (!parameter->name.ends_with("router_bias")) continue;
            float* bias = parameter->master().data<float>();
            for (int64_t e = 0; e < parameter->master().size(); ++e)
                bias[e] = -5 - 5 * static_cast<float>(e / 2);  // the last group is never kept
        }
    };
    const Overrides base = with({"train.router_bias_update=0"});
    for (const test::Ranks& layout : {test::Ranks{}, test::Ranks{2, 2}}) {
        const Trained got = test::train(layout, base, sink);
        for (const auto& layer : got.steps[0].expert_counts)
            EXPECT_EQ(layer[4] + layer[5], 0) << layout.name();
    }
}

}  // namespace
}  // namespace fucina
