// E4M3 and the scales of its blocks, as kernels/quantize.h has them.
#pragma once
#include "kernels/cuda/device/block.h"
#include "kernels/quantize.h"

namespace fucina::cuda {

constexpr int kFp8Tile = 128;
static_assert(kFp8Tile == kQuantizeBlock && kFp8Tile == 4 * kWarpSize);

template <ScaleFormat kFormat>
__device__ __forceinline__ float fp8_scale(float largest) {
    const float scale = largest / 448.0f;
    if (kFormat == ScaleFormat::fp32) return scale;
    // Cut the mantissa; one exponent up if there was any. Infinity has none.
    const uint32_t bits = __float_as_uint(scale);
    return __uint_as_float((bits + 0x7fffffu) & 0xff800000u);
}

// Four neighbours as four E4M3 bytes, the first lowest.
__device__ __forceinline__ uint32_t to_e4m3(const float (&x)[4], float inverse) {
    const auto pair = [&](int i) -> uint32_t {
        return __nv_cvt_float2_to_fp8x2(float2{x[i] * inverse, x[i + 1] * inverse}, __NV_SATFINITE,
                                        __NV_E4M3);
    };
    return pair(0) | pair(2) << 16;
}

// Where 128 tokens of a group, or of one leaf of each group, are one block of quantised columns:
// block b is of the last group g whose rows begin at block begin(g) / 128 + g or before, and what
// lies between two groups' blocks is nobody's.
struct TokenBlocks {
    const int64_t* leaves = nullptr;  // [groups, stored + 1], or null: one group of `rows`
    int64_t rows = 0, stored = 0, first = 0, last = 0;  // leaves [first, last) of each
    int64_t groups = 1;

    __host__ __device__ int64_t count() const { return rows / kFp8Tile + groups; }
    __device__ __forceinline__ int64_t begin(int64_t group) const {
        return leaves != nullptr ? leaves[group * (stored + 1) + first] : 0;
    }
    __device__ __forceinline__ int64_t end(int64_t group) const {
        return leaves != nullptr ? leaves[group * (stored + 1) + last] : rows;
    }
    __device__ __forceinline__ int64_t first_block(int64_t group) const {
        return begin(group) / kFp8Tile + group;
    }
    __device__ __forceinline__ int64_t group_of(int64_t block) const {
        int64_t low = 0, high = groups;  // first_block(low) <= block < first_block(high)
        while (high - low > 1) {
            const int64_t middle = (low + high) / 2;
            (first_block(middle) <= block ? low : high) = middle;
        }
        return low;
    }
};

}  // namespace fucina::cuda
