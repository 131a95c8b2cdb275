// What holds on a real GPU alone: copies are in the order of the stream, a launch that CUDA refuses
// is an Error, and memory that is given back is there again.
#include <gtest/gtest.h>

#include "kernels/cuda/rows.h"
#include "kernels/cuda/runtime.h"
#include "tests/simt/device.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

TEST(Gpu, IsDescribed) {
    const cuda::DeviceIdentity identity = (device(), cuda::current_device());
    EXPECT_EQ(identity.number, 0);
    EXPECT_NE(identity.bus_id, "");
    std::printf("%s, bus %s\n", cuda::describe_device().c_str(), identity.bus_id.c_str());
}

// Each copy reads what the kernel before it wrote; none is waited for but the last.
TEST(Gpu, CopiesFollowKernelsInTheOrderOfTheStream) {
    constexpr int kTimes = 100;
    const Tensor x = random_tensor({300, 1000}, DType::f32, 1);
    const Tensor there = device().clone(x), other = device().empty({300, 1000}, DType::f32);
    device().zero(other);
    for (int i = 0; i < kTimes; ++i) {
        cuda::add_in_place(device(), other, there);
        device().copy(other, there);
        device().zero(other);
    }
    EXPECT_TRUE(bit_equal(on_host(device(), there), x));
}

TEST(Gpu, RowsAtStridesGoBothWays) {
    const Tensor x = random_tensor({17, 60}, DType::bf16, 2);
    const Tensor there = device().empty({17, 60}, DType::bf16);
    device().zero(there);
    device().copy(x.columns(3, 30), there.columns(31, 58));
    const Tensor back = on_host(device(), there);
    EXPECT_TRUE(bit_equal(back.columns(31, 58), x.columns(3, 30)));
    EXPECT_EQ(get(back, 16, 58), 0.0f);
}

TEST(Gpu, MemoryComesBack) {
    const int64_t before = (device(), cuda::device_memory().free);
    std::byte* const at = cuda::allocate(int64_t{256} << 20);
    ASSERT_NE(at, nullptr);
    EXPECT_LT(cuda::device_memory().free, before);
    cuda::release(at);
    EXPECT_EQ(cuda::allocate(int64_t{1} << 50), nullptr);
}

}  // namespace
}  // namespace fucina::test
