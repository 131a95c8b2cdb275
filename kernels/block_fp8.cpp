#include "kernels/block_fp8.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/quantize.h"
#include "kernels/runtime.h"

namespace fucina {
namespace {

constexpr float kLargest = 448.0f;

std::array<float, 256> make_table() {
    std::array<float, 256> table{};
    for (int bits = 0; bits < 256; ++bits)
        table[static_cast<size_t>(bits)] = from_e4m3(static_cast<uint8_t>(bits));
    return table;
}
const std::array<float, 256> kTable = make_table();

// E4M3 of what is finite, to nearest even, saturating, without branches.
uint32_t to_e4m3(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint32_t m = std::min(bits & 0x7fffffffu, std::bit_cast<uint32_t>(kLargest));
    // Three bits of the mantissa stay; the exponent's bias goes from 127 to 7.
    const uint32_t normal = ((m + 0x7ffffu + ((m >> 20) & 1u)) >> 20) - (120u << 3);
    // Below 2^-6 values are multiples of 2^-9, which is the last place of numbers from 2^14 on.
    const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(m) + 0x1p14f) -
                           std::bit_cast<uint32_t>(0x1p14f);
    const uint32_t is_small = 0u - static_cast<uint32_t>(m < std::bit_cast<uint32_t>(0x1p-6f));
    const uint32_t code = (small & is_small) | (normal & ~is_small);
    return code | (bits >> 24 & 0x80u);
}

// At most a block's width; the codes lie apart from the values until all are there, so that the
// compiler may take whole registers.
void encode_run(const float* x, int64_t width, float scale, uint8_t* values) {
    uint32_t codes[kQuantizeBlock];
    for (int64_t i = 0; i < width; ++i) codes[i] = to_e4m3(x[i] / scale);
    for (int64_t i = 0; i < width; ++i) values[i] = static_cast<uint8_t>(codes[i]);
}

float scale_of(float largest, ScaleFormat format) {
    constexpr float kLeast = kLargest * std::numeric_limits<float>::min();
    return largest == 0 ? 1 : quantize_scale(std::max(largest, kLeast), format);
}

}  // namespace

void decode_fp8(const Fp8Matrices& matrices, int64_t first, const uint8_t* values,
                std::span<float> out) {
    flush_denormals();
    const int64_t rows = matrices.rows, columns = matrices.columns;
    const int64_t down = fp8_blocks(rows), across = fp8_blocks(columns);
    for (int64_t done = 0, count = std::ssize(out); done < count;) {
        const int64_t row = (first + done) / columns, column = (first + done) % columns;
        const float* scales =
            matrices.scales.data() + (row / rows * down + row % rows / kQuantizeBlock) * across;
        const int64_t end = std::min(columns, column + count - done);
        for (int64_t c = column; c < end;) {
            const int64_t stop = std::min(end, (c / kQuantizeBlock + 1) * kQuantizeBlock);
            const float scale = scales[c / kQuantizeBlock];
            for (; c < stop; ++c, ++done)
                out[static_cast<size_t>(done)] = kTable[values[done]] * scale;
        }
    }
}

void fp8_scales(std::span<const float> x, int64_t columns, ScaleFormat format, float* scales) {
    flush_denormals();
    const int64_t elements = std::ssize(x);
    for (int64_t begin = 0; begin < columns; begin += kQuantizeBlock) {
        const int64_t width = std::min(kQuantizeBlock, columns - begin);
        float largest = 0;
        for (int64_t row = begin; row < elements; row += columns)
            for (int64_t i = row; i < row + width; ++i)
                largest = std::max(largest, std::fabs(x[static_cast<size_t>(i)]));
        scales[begin / kQuantizeBlock] = scale_of(largest, format);
    }
}

void encode_fp8(std::span<const float> x, int64_t columns, const float* scales, uint8_t* values) {
    flush_denormals();
    const int64_t elements = std::ssize(x);
    for (int64_t begin = 0; begin < columns; begin += kQuantizeBlock) {
        const int64_t width = std::min(kQuantizeBlock, columns - begin);
        const float scale = scales[begin / kQuantizeBlock];
        for (int64_t row = begin; row < elements; row += columns)
            encode_run(x.data() + row, width, scale, values + row);
    }
}

}  // namespace fucina
