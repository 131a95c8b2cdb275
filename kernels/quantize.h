// FP8 operands after DeepSeek-V3 (arXiv 2412.19437 §3.3): E4M3 values, one scale for 128 neighbours
// along the dimension that a GEMM sums over.
//
// For each block: a = max(|x|, 2^-40) over its elements, scale = a / 448 (fp32; or the next power
// of two not below it), value = E4M3(x · (1 / scale)), rounded to nearest even, saturating at ±448.
// value · scale is x again, but for rounding. (The floor of DeepSeek's kernels, 1e-4, would make
// zeros of gradients: those of a batch's mean are 1 / tokens small. Two scales of this one multiply
// to a normal number.) NaN stays NaN; a block with an infinity has scale
// infinity and NaN in its place.
#pragma once
#include "kernels/tensor.h"

namespace fucina {

constexpr int64_t kQuantizeBlock = 128;
constexpr float kQuantizeFloor = 0x1p-40f;

enum class ScaleFormat { fp32, power_of_two };

// values f8_e4m3 [R, C], scales fp32 [ceil(C / 128), R]: the order that cuBLASLt and the grouped
// GEMM kernels read.
struct QuantizedRows {
    Tensor values, scales;
    bool defined() const { return values.defined(); }
};

// Of an E4M3 code; S.1111.111 is NaN.
float from_e4m3(uint8_t bits);
// Of a block whose largest magnitude, or the floor, is that.
float quantize_scale(float largest, ScaleFormat format);

struct Quantize {
    Tensor x;            // bf16 [T, K]
    QuantizedRows rows;  // out: R = T, C = K; blocks of 1 x 128
    // out: R = K, C = T rounded up to a multiple of 128; xᵀ in blocks of 128 x 1, the operand of a
    // weight gradient; zeros from column T on. May be undefined.
    QuantizedRows columns;
    ScaleFormat format = ScaleFormat::fp32;
};

}  // namespace fucina
