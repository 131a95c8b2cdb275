// Layouts on a GPU, that of the SIMT model, in exact numerics: every one trains what one rank does,
// to the last bit, and what the CPU trains, within the bounds that its other orders of sums make.
#include <gtest/gtest.h>

#include "tests/layouts/train_layout.h"

namespace fucina::test {
namespace {

Overrides on_gpu() {
    Overrides base = all_losses();
    base.push_back("run.device=cuda");
    return base;
}

const Trained& one_rank() {
    static const Trained trained = train({}, on_gpu());
    return trained;
}

Overrides in_fp8(Overrides base) {
    base.insert(base.end(), {"train.precision=fp8", "exact.chunks=1"});
    return base;
}

class DeviceLayouts : public testing::TestWithParam<Ranks> {
  protected:
    void SetUp() override {
        if (!kWithCuda) GTEST_SKIP() << "built without CUDA";
    }
};

TEST_P(DeviceLayouts, TrainWhatOneRankDoes) {
    expect_same(train(GetParam(), on_gpu()), one_rank());
}

INSTANTIATE_TEST_SUITE_P(
    Each, DeviceLayouts,
    testing::Values(Ranks{2}, Ranks{2, 2}, Ranks{2, 2, {"parallel.tensor=2"}},
                    Ranks{2, 1, {"parallel.pipeline=2", "parallel.schedule=zero_bubble"}},
                    Ranks{2, 1, {"parallel.zero=3"}}, Ranks{2, 2, {"parallel.zero=2"}},
                    Ranks{4, 4, {"parallel.tensor=2", "train.recompute=block"}}),
    [](const auto& info) { return "layout" + std::to_string(info.index); });

// The same products; norms, softmax and the router's exponentials are within a few steps of the
// last place of fp32, of which some become one of bf16.
TEST(Device, TrainsWhatTheCpuDoes) {
    if (!kWithCuda) GTEST_SKIP() << "built without CUDA";
    const Trained expected = train({}, all_losses());
    const Trained& got = one_rank();
    for (size_t step = 0; step < kSteps; ++step) {
        EXPECT_NEAR(got.steps[step].loss, expected.steps[step].loss, 1e-4) << step;
        EXPECT_NEAR(got.steps[step].grad_norm, expected.steps[step].grad_norm,
                    1e-3 * expected.steps[step].grad_norm)
            << step;
    }
}

// For as long as no token meets another expert: then a difference in a last place becomes one of
// 1e-3.
TEST(Device, TrainsInFp8WhatTheCpuDoes) {
    if (!kWithCuda) GTEST_SKIP() << "built without CUDA";
    constexpr int kMany = 8;
    const Trained expected = train({}, in_fp8(all_losses()), {}, kMany);
    const Trained got = train({}, in_fp8(on_gpu()), {}, kMany);
    for (size_t step = 0; step < kMany; ++step)
        EXPECT_NEAR(got.steps[step].loss, expected.steps[step].loss, 1e-6) << step;
}

// Tiny widths, thrice fewer digits: the loss is not bf16's, but falls as it does.
TEST(Layouts, Fp8LearnsWhatBf16Does) {
    const auto last = [](const char* precision) {
        Overrides base = all_losses();
        base.push_back(precision);
        const Trained trained = train({}, base, {}, 20);
        EXPECT_GT(trained.steps.front().loss, 3.6);
        return trained.steps.back().loss;
    };
    const double bf16 = last("train.precision=bf16");
    EXPECT_LT(bf16, 2.3);
    EXPECT_NEAR(last("train.precision=fp8"), bf16, 0.05 * bf16);
}

TEST(Device, RanksTrainInFp8WhatOneDoes) {
    if (!kWithCuda) GTEST_SKIP() << "built without CUDA";
    const Trained expected = train({}, in_fp8(on_gpu()));
    for (const Ranks& layout : {Ranks{2}, Ranks{2, 2, {"parallel.zero=3"}}}) {
        SCOPED_TRACE(layout.name());
        expect_same(train(layout, in_fp8(on_gpu())), expected);
    }
}

}  // namespace
}  // namespace fucina::test
