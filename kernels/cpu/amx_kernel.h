// bf16 matrix products on AMX tiles, as a template over the tiles: the CPU's (gemm_amx.cpp) or a
// model of them (amx_emulated_isa.cpp), so that all of this also runs in tests on CPUs without AMX.
//
// A is [k/32][2 tiles][16 rows][32 k], B as in gemm_kernels.h. A step multiplies two tiles of A by
// two of B into four tiles of C: 32 x 32 outputs, 32 of k.
#pragma once
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/transpose_pairs.h"

namespace fucina::cpu::FUCINA_ISA {

constexpr int kTileRows = 16;
constexpr int kTileElements = 512;  // of bf16

// Tiles: zero(), load(c), step(a, b), half_step(a, b) with the upper 16 rows alone, store(c), and
// burst() of a GemmKernel.
template <class Tiles>
void amx_multiply(const void* a, const void* b, int64_t k, int rows, bool accumulate, float* c) {
    const auto* left = static_cast<const uint16_t*>(a);
    const auto* right = static_cast<const uint16_t*>(b);
    Tiles tiles;
    if (accumulate)
        tiles.load(c);
    else
        tiles.zero();
    for (int64_t first = 0; first < k; first += 32) {
        if (rows > kTileRows)
            tiles.step(left, right);
        else
            tiles.half_step(left, right);
        left += 2 * kTileElements;
        right += 2 * kTileElements;
    }
    tiles.store(c);
}

template <class Tiles>
void amx_multiply_chunk(const void* a, const void* b, int64_t k, int rows, ChunkSums sums) {
    amx_multiply<Tiles>(a, b, k, rows, sums.more, sums.c);
    float* c = sums.c;
    for (; sums.merges > 0; --sums.merges, c -= kPartialFloats)
        for (int i = 0; i < rows * kBlock; i += kLanes) {
            float* before = c - kPartialFloats + i;
            store(before, add(load(before), load(c + i)));
        }
}

FUCINA_INLINE void amx_pack_a(const void* const* rows, int count, int64_t k, void* a) {
    for (int row = 0; row < count; ++row) {
        const auto* in = static_cast<const uint16_t*>(rows[row]);
        auto* out = static_cast<uint16_t*>(a) + row * 32;
        for (int64_t i = 0; i < k; i += 32, out += 2 * kTileElements) {
            if (k - i >= 32) {
                __builtin_memcpy(out, in + i, 64);
            } else {
                for (int j = 0; j < 32; ++j) out[j] = j < k - i ? in[i + j] : 0;
            }
        }
    }
}

FUCINA_INLINE void amx_pack_a_transposed(const TokenColumns& in, void* a) {
    auto* out = static_cast<uint16_t*>(a) + in.begin / 32 * 2 * kTileElements;
    for (int64_t first = in.begin; first < in.end; first += 32, out += 2 * kTileElements) {
        uint32_t pairs[2][16 * 16];  // [half of the columns][pair of tokens][column]
        for (int pair = 0; pair < 16; ++pair) {
            const uint16_t* row[2] = {};
            uint16_t padded[2][32] = {};
            for (int i = 0; i < 2; ++i) {
                const int64_t t = first + 2 * pair + i;
                row[i] = padded[i];
                if (t >= in.k) continue;
                const uint16_t* token = static_cast<const uint16_t*>(in.rows[t]) + in.column;
                if (in.columns == kBlock) {
                    row[i] = token;
                } else {
                    for (int j = 0; j < in.columns; ++j) padded[i][j] = token[j];
                }
            }
            for (int half = 0; half < 2; ++half)
                for (int j = 0; j < 16; ++j)
                    pairs[half][pair * 16 + j] =
                        row[0][half * 16 + j] | uint32_t{row[1][half * 16 + j]} << 16;
        }
        for (int half = 0; half < 2; ++half)
            transpose_pairs(pairs[half], out + half * kTileElements);
    }
}

template <class Tiles>
constexpr GemmKernel amx_kernel() {
    return {static_cast<int64_t>(kBlock * sizeof(uint16_t)),
            amx_pack_a,
            amx_pack_a_transposed,
            amx_multiply<Tiles>,
            amx_multiply<Tiles>,
            amx_multiply_chunk<Tiles>,
            nullptr,
            Tiles::burst};
}

}  // namespace fucina::cpu::FUCINA_ISA
