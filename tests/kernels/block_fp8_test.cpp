// kernels/block_fp8.h against reference::to_e4m3 and a plain loop over blocks.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/block_fp8.h"
#include "tests/reference/quantize.h"

namespace fucina {
namespace {

// With 448 in front a block's scale is 1, so that the others are rounded as they are.
TEST(BlockFp8, RoundsAsTheReference) {
    std::vector<float> x = {448.0f};
    for (uint32_t bits = 0; bits < 0x43e00000u; bits += 9973) {
        x.push_back(std::bit_cast<float>(bits));
        x.push_back(-std::bit_cast<float>(bits));
    }
    for (int code = 0; code < 0x7e; ++code) {  // ties, and their neighbours
        const float low = reference::from_e4m3(static_cast<uint8_t>(code));
        const float high = reference::from_e4m3(static_cast<uint8_t>(code + 1));
        const float middle = (low + high) / 2;
        for (const float value :
             {low, middle, std::nextafter(middle, low), -middle, std::nextafter(middle, high)})
            x.push_back(value);
    }
    for (size_t first = 1; first < x.size(); first += 127) {
        std::vector<float> block = {448.0f};
        block.insert(block.end(), x.begin() + static_cast<ptrdiff_t>(first),
                     x.begin() + static_cast<ptrdiff_t>(std::min(x.size(), first + 127)));
        std::vector<uint8_t> values(block.size());
        float scale = 0;
        fp8_scales(block, std::ssize(block), ScaleFormat::fp32, &scale);
        encode_fp8(block, std::ssize(block), &scale, values.data());
        ASSERT_EQ(scale, 1.0f);
        for (size_t i = 0; i < block.size(); ++i)
            ASSERT_EQ(values[i], reference::to_e4m3(block[i])) << block[i];
    }
}

TEST(BlockFp8, DecodesAnyRunOfElementsOfMatricesWithPartialBlocks) {
    constexpr int64_t kMatrices = 3, kRows = 200, kColumns = 300, kDown = 2, kAcross = 3;
    std::mt19937 random(1);
    std::vector<uint8_t> values(kMatrices * kRows * kColumns);
    for (uint8_t& value : values) value = static_cast<uint8_t>(random() % 127);
    std::vector<float> scales(kMatrices * kDown * kAcross);
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i) + 0.25f;
    for (int trial = 0; trial < 200; ++trial) {
        const auto first = static_cast<int64_t>(random() % values.size());
        const auto count =
            static_cast<int64_t>(random() % (values.size() - static_cast<size_t>(first)));
        std::vector<float> out(static_cast<size_t>(count));
        decode_fp8({kRows, kColumns, scales}, first, values.data() + first, out);
        for (int64_t i = 0; i < count; i += 1 + static_cast<int64_t>(random() % 50)) {
            const int64_t at = first + i, row = at / kColumns, column = at % kColumns;
            const int64_t block =
                (row / kRows * kDown + row % kRows / 128) * kAcross + column / 128;
            ASSERT_EQ(out[static_cast<size_t>(i)],
                      reference::from_e4m3(values[static_cast<size_t>(at)]) *
                          scales[static_cast<size_t>(block)])
                << at;
        }
    }
}

TEST(BlockFp8, ScalesOfBlocksThatAreZeroTinyOrRoundedUpArePositive) {
    constexpr int64_t kColumns = 3 * 128 + 5;
    std::vector<float> x(2 * kColumns, 0.0f);
    x[128] = -896.0f;
    x[kColumns + 256] = std::numeric_limits<float>::min();
    x[kColumns + 384] = 500.0f;
    for (const ScaleFormat format : {ScaleFormat::fp32, ScaleFormat::power_of_two}) {
        std::vector<uint8_t> values(x.size());
        std::vector<float> scales(4);
        fp8_scales(x, kColumns, format, scales.data());
        encode_fp8(x, kColumns, scales.data(), values.data());
        const bool power = format == ScaleFormat::power_of_two;
        EXPECT_EQ(scales[0], 1.0f);
        EXPECT_EQ(scales[1], 2.0f);
        EXPECT_EQ(scales[2], std::numeric_limits<float>::min());
        EXPECT_EQ(scales[3], power ? 2.0f : 500.0f / 448);
        EXPECT_EQ(values[128], 0xfe);
        std::vector<float> back(x.size());
        decode_fp8({2, kColumns, scales}, 0, values.data(), back);
        for (size_t i = 0; i < x.size(); ++i)
            ASSERT_NEAR(back[i], x[i], power ? 500.0 / 16 : 1e-4) << i;
    }
}

}  // namespace
}  // namespace fucina
