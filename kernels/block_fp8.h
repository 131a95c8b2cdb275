// Weights in FP8 as DeepSeek-V3's release stores them: E4M3 values [..., R, C] and an fp32 scale
// for each block of 128 x 128 of the matrices [R, C], the last blocks of rows and columns being
// smaller. weight = value * scale, rounded to fp32,
// denormals being zero.
#pragma once
#include <cstdint>
#include <span>

#include "kernels/quantize.h"

namespace fucina {

// Blocks that n rows or columns make.
constexpr int64_t fp8_blocks(int64_t n) {
    return (n + kQuantizeBlock - 1) / kQuantizeBlock;
}

struct Fp8Matrices {
    int64_t rows, columns;  // R, C
    // Of all matrices, [..., blocks(R), blocks(C)].
    std::span<const float> scales;
};

// out: the weights of elements [first, first + out.size()); values: these elements. NaN stays NaN.
void decode_fp8(const Fp8Matrices& matrices, int64_t first, const uint8_t* values,
                std::span<float> out);

// Of one row of blocks, x [rows <= 128, C] and scales [blocks(C)]; x is finite.
// A block's scale is max|x| / 448 (or the next power of two not below it), the least normal fp32
// number where that is less, and 1 if all is zero.
void fp8_scales(std::span<const float> x, int64_t columns, ScaleFormat format, float* scales);
// value = E4M3(x / scale), to nearest even, saturating at 448.
void encode_fp8(std::span<const float> x, int64_t columns, const float* scales, uint8_t* values);

}  // namespace fucina
