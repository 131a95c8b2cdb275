// 16 x 16 pairs of bf16 transposed, as packing for matrix products needs it. For files that are
// compiled per instruction set (simd.h).
#pragma once
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {

// out[j][i] = in[i][j], pairs; rows of 16 pairs, 64 bytes.
#if defined(__AVX512F__)
FUCINA_INLINE void transpose_pairs(const uint32_t* in, uint16_t* out) {
    __m512i x[16], y[16];
    for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_si512(in + 16 * i);
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    // x[4g + j]: rows 4g .. 4g + 3 of columns j, j + 4, j + 8, j + 12, one per 128 bits.
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (int j = 0; j < 4; ++j) {
        const __m512i a = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x44);
        const __m512i b = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xee);
        const __m512i c = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x44);
        const __m512i d = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xee);
        _mm512_storeu_si512(out + 32 * j, _mm512_shuffle_i32x4(a, c, 0x88));
        _mm512_storeu_si512(out + 32 * (j + 4), _mm512_shuffle_i32x4(a, c, 0xdd));
        _mm512_storeu_si512(out + 32 * (j + 8), _mm512_shuffle_i32x4(b, d, 0x88));
        _mm512_storeu_si512(out + 32 * (j + 12), _mm512_shuffle_i32x4(b, d, 0xdd));
    }
}
#else
FUCINA_INLINE void transpose_pairs(const uint32_t* in, uint16_t* out) {
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) __builtin_memcpy(out + 32 * j + 2 * i, in + 16 * i + j, 4);
}
#endif

}  // namespace fucina::cpu::FUCINA_ISA
