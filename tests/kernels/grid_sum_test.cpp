// Guards against integer sums of gradients that depend on their order or on the CPU, that are
// rounded more than once, and that leave their range unseen.
#include "kernels/grid_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/levels.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

Tensor of(const std::vector<float>& values) {
    const Tensor x = Tensor::empty({std::ssize(values)}, DType::f32);
    std::ranges::copy(values, x.data<float>());
    return x;
}

// The sum of one value from each tensor, element by element.
std::vector<float> sums(const std::vector<Tensor>& parts, float bound = kGridRange) {
    const Tensor sum = Tensor::empty(parts[0].shape(), DType::i64);
    const Tensor out = Tensor::empty(parts[0].shape(), DType::f32);
    EXPECT_TRUE(ops::set_on_grid(kHost, sum, parts[0], bound));
    for (size_t i = 1; i < parts.size(); ++i)
        EXPECT_TRUE(ops::add_on_grid(kHost, sum, parts[i], bound));
    ops::round_from_grid(kHost, sum, out);
    return {out.data<float>(), out.data<float>() + out.size()};
}

TEST(GridSum, RoundsEachValueAndTheSumOnce) {
    const float step = 0x1p-54f;
    EXPECT_EQ(sums({of({step / 2, 3 * step / 2, -step / 2, 0.6f * step, 0x1p-120f, -0.0f, 511})}),
              (std::vector<float>{0, 2 * step, 0, step, 0, 0, 511}));
    // 1 + 2^-24 is a tie to even, and a step of the grid more is not.
    EXPECT_EQ(sums({of({1, 1}), of({0x1p-24f, 0x1p-24f}), of({0, step})}),
              (std::vector<float>{1, 1 + 0x1p-23f}));
    // What is lost on the way in fp32 is not lost here.
    EXPECT_EQ(sums({of({256}), of({0x1p-30f}), of({-256})}), std::vector<float>{0x1p-30f});
}

TEST(GridSum, IsTheSameInAnyOrderAndOnAnyCpu) {
    std::vector<Tensor> parts;
    for (uint64_t i = 0; i < 7; ++i) {
        parts.push_back(test::random_tensor({50003}, DType::f32, 60 + i));
        for (int64_t e = 0; e < parts.back().size(); ++e)
            parts.back().data<float>()[e] *= std::ldexp(1.0f, static_cast<int>(e % 60) - 55);
    }
    // Each fits a double exactly, as do the sums.
    std::vector<float> expected;
    for (int64_t e = 0; e < parts[0].size(); ++e) {
        __int128 sum = 0;
        for (const Tensor& part : parts)
            sum += static_cast<__int128>(std::nearbyint(double{part.data<float>()[e]} * 0x1p54));
        expected.push_back(static_cast<float>(static_cast<int64_t>(sum)) * 0x1p-54f);
    }
    test::for_each_level([&](const std::string& level) {
        EXPECT_EQ(sums(parts), expected) << level;
        std::swap(parts[0], parts[5]);
        std::swap(parts[1], parts[3]);
    });
}

TEST(GridSum, AddsWhatOtherRanksHave) {
    const Tensor a = Tensor::empty({40000}, DType::i64), b = Tensor::empty({40000}, DType::i64);
    for (int64_t e = 0; e < a.size(); ++e) {
        a.data<int64_t>()[e] = e << 40;
        b.data<int64_t>()[e] = -e;
    }
    ops::add_integers(kHost, a, b);
    for (int64_t e = 0; e < a.size(); ++e) EXPECT_EQ(a.data<int64_t>()[e], (e << 40) - e);
}

TEST(GridSum, SaysWhatIsOutside) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float infinity = std::numeric_limits<float>::infinity();
    test::for_each_level([&](const std::string& level) {
        for (const int64_t place : {0, 7, 8, 20002}) {
            for (const float value : {2.0f, -2.0f, nan, infinity, -1e30f}) {
                std::vector<float> values(20003, 0.5f);
                values[static_cast<size_t>(place)] = value;
                const Tensor sum = Tensor::empty({std::ssize(values)}, DType::i64);
                EXPECT_FALSE(ops::set_on_grid(kHost, sum, of(values), 2)) << value << ", " << level;
                EXPECT_FALSE(ops::add_on_grid(kHost, sum, of(values), 2)) << value << ", " << level;
            }
        }
        const Tensor sum = Tensor::empty({9}, DType::i64);
        EXPECT_TRUE(ops::set_on_grid(kHost, sum, of(std::vector<float>(9, -1.9999999f)), 2))
            << level;
    });
}

}  // namespace
}  // namespace fucina
