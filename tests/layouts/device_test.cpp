// Layouts on a GPU, that of the SIMT model, in exact numerics: every one trains what one rank does
// on a CPU, to the last bit.
#include <gtest/gtest.h>

#include "tests/layouts/train_layout.h"

namespace fucina::test {
namespace {

// In the order of products that a GPU has.
Overrides on(const std::string& device) {
    Overrides base = all_losses();
    base.push_back("exact.products=fma");
    base.push_back("run.device=" + device);
    return base;
}

const Trained& on_a_cpu() {
    static const Trained trained = train({}, on("cpu"));
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

TEST_P(DeviceLayouts, TrainWhatOneCpuDoes) {
    expect_same(train(GetParam(), on("cuda")), on_a_cpu());
}

INSTANTIATE_TEST_SUITE_P(
    Each, DeviceLayouts,
    testing::Values(Ranks{}, Ranks{2}, Ranks{2, 2}, Ranks{2, 2, {"parallel.tensor=2"}},
                    Ranks{2, 1, {"parallel.pipeline=2", "parallel.schedule=zero_bubble"}},
                    Ranks{2, 1, {"parallel.zero=3"}}, Ranks{2, 2, {"parallel.zero=2"}},
                    Ranks{4, 4, {"parallel.tensor=2", "train.recompute=block"}}),
    [](const auto& info) { return "layout" + std::to_string(info.index); });

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

TEST(Device, RanksTrainInFp8WhatOneCpuDoes) {
    if (!kWithCuda) GTEST_SKIP() << "built without CUDA";
    const Trained expected = train({}, in_fp8(on("cpu")));
    for (const Ranks& layout : {Ranks{}, Ranks{2}, Ranks{2, 2, {"parallel.zero=3"}}}) {
        SCOPED_TRACE(layout.name());
        expect_same(train(layout, in_fp8(on("cuda"))), expected);
    }
}

}  // namespace
}  // namespace fucina::test
