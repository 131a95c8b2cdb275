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

}  // namespace
}  // namespace fucina::test
