// Runs every KernelCase and GradientCase, and the harness against kernels that are wrong.
#include "tests/support/kernel_case.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include "tests/kernels/levels.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

using KernelCaseOrders = EveryOrder;
INSTANTIATE_TEST_SUITE_P(Each, KernelCaseOrders, offered_orders(), order_name);

TEST_P(KernelCaseOrders, AgreeWithTheReferenceAtEveryLevel) {
    ASSERT_FALSE(all_cases().kernels.empty());
    for (const KernelCase& test : all_cases().kernels) check_parity(test);
}

TEST(GradientCases, AgreeWithFiniteDifferences) {
    ASSERT_FALSE(all_cases().gradients.empty());
    for (const GradientCase& test : all_cases().gradients) check_gradient(test);
}

// y = factor · x, wrong for factor != 2.
Tensors scaled(const Tensors& in, float factor) {
    const Tensor y = in[0].clone();
    for (int64_t j = 0; j < y.row_size(); ++j) set(y, 0, j, factor * get(y, 0, j));
    return {y};
}

// One value too far off at the first level only: one failure of parity, the others of equal bits.
TEST(KernelCases, AWrongKernelFails) {
    testing::TestPartResultArray failures;
    {
        testing::ScopedFakeTestPartResultReporter reporter(
            testing::ScopedFakeTestPartResultReporter::INTERCEPT_ALL_THREADS, &failures);
        bool first = true;
        check_parity({.name = "twice",
                      .inputs = {random_tensor({1, 9}, DType::f32, 1)},
                      .run =
                          [&](Version version, const Tensors& in) {
                              const bool wrong = version == Version::fast && first;
                              if (wrong) first = false;
                              return scaled(in, wrong ? 2.001f : 2.0f);
                          },
                      .tolerance = 1e-4});
    }
    EXPECT_EQ(failures.size(), static_cast<int>(isa_levels().size()));
}

TEST(GradientCases, AWrongBackwardFails) {
    testing::TestPartResultArray failures;
    {
        testing::ScopedFakeTestPartResultReporter reporter(
            testing::ScopedFakeTestPartResultReporter::INTERCEPT_ALL_THREADS, &failures);
        check_gradient(
            {.name = "twice",
             .inputs = {random_tensor({1, 9}, DType::f32, 1)},
             .forward = [](const Tensors& in) { return scaled(in, 2.0f); },
             .backward = [](const Tensors&, const Tensors& d) { return scaled(d, 2.02f); }});
    }
    EXPECT_EQ(failures.size(), 1);
}

}  // namespace
}  // namespace fucina::test
