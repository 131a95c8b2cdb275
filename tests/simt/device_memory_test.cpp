// Memory of the device: what moves to, from and within it, and what it is charged to.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>

#include "kernels/arena.h"
#include "tests/simt/device.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

using test::device;

// The child begins anew, with the guard.
TEST(DeviceMemoryDeathTest, TheHostMayNotTouchWhatIsGuarded) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    setenv("FUCINA_SIMT_GUARD", "1", 1);
    const auto touch = [] { device().zeros({4}, DType::f32).data<float>()[1] = 1; };
    EXPECT_EXIT(touch(), testing::KilledBySignal(SIGSEGV), "");
    unsetenv("FUCINA_SIMT_GUARD");
}

TEST(DeviceMemory, RowsMoveAtAnyStride) {
    const Tensor x = test::random_tensor({5, 12}, DType::bf16, 1);
    const Tensor there = device().clone(x.columns(2, 9));
    const Tensor wide = device().zeros({5, 20}, DType::bf16);
    device().copy(there, wide.columns(3, 10));
    const Tensor back = on_host(device(), wide);
    for (int64_t i = 0; i < 5; ++i)
        for (int64_t j = 0; j < 20; ++j)
            EXPECT_EQ(test::get(back, i, j), j < 3 || j >= 10 ? 0 : test::get(x, i, j - 1));
    device().zero(wide.columns(4, 20));
    const Tensor left = on_host(device(), wide);
    for (int64_t j = 0; j < 20; ++j)
        EXPECT_EQ(test::get(left, 2, j), j == 3 ? test::get(x, 2, 2) : 0);
}

TEST(DeviceMemory, ValuesAreEditedOnTheHost) {
    const Tensor x = tensor_of(device(), std::vector<int64_t>{1, 2, 3});
    edit_on_host(device(), x, [](const Tensor& values) { values.data<int64_t>()[1] = 7; });
    EXPECT_EQ(HostValues<int64_t>(device(), x)[1], 7);
    EXPECT_EQ(HostValues<int64_t>(device(), x)[2], 3);
}

TEST(DeviceMemory, IsChargedToItsPurposeAndKept) {
    Arena& arena = Arena::device_memory();
    MemoryPurpose purpose("a test");
    { const Tensor x = device().empty({1000}, DType::f32); }
    const int64_t reserved = arena.reserved();
    const Tensor x = device().empty({1000}, DType::f32);
    EXPECT_EQ(arena.reserved(), reserved);
    EXPECT_TRUE(arena.holds(x.raw()) && arena.holds(x.raw() + 3999));
    EXPECT_FALSE(arena.holds(Tensor::empty({1}, DType::f32).raw()));
    for (const MemoryUse& use : arena.table())
        if (use.purpose == "a test") {
            EXPECT_EQ(use.current, 4096);
        }
}

}  // namespace
}  // namespace fucina
