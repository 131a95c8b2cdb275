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
    for (const bool fp8 : {false, true}) {
        const Trained expected = train({}, fp8 ? in_fp8(all_losses()) : all_losses());
        const Trained got = fp8 ? train({}, in_fp8(on_gpu())) : one_rank();
        for (size_t step = 0; step < kSteps; ++step) {
            EXPECT_NEAR(got.steps[step].loss, expected.steps[step].loss, 1e-4) << step;
            EXPECT_NEAR(got.steps[step].grad_norm, expected.steps[step].grad_norm,
                        1e-3 * expected.steps[step].grad_norm)
                << step;
        }
    }
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
