// Vec with AVX-512 (F, BW, DQ, VL; BF16 where FUCINA_ISA is avx512_bf16). Included by simd.h.
#pragma once

namespace fucina::cpu::FUCINA_ISA {

struct Vec {
    __m512 v;
};

FUCINA_INLINE Vec zero() {
    return {_mm512_setzero_ps()};
}
FUCINA_INLINE Vec set1(float x) {
    return {_mm512_set1_ps(x)};
}
FUCINA_INLINE Vec load(const float* p) {
    return {_mm512_loadu_ps(p)};
}
FUCINA_INLINE void store(float* p, Vec x) {
    _mm512_storeu_ps(p, x.v);
}
// Past the caches; p is a multiple of 64 bytes.
FUCINA_INLINE void stream(float* p, Vec x) {
    _mm512_stream_ps(p, x.v);
}
FUCINA_INLINE Vec load(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
#if defined(__AVX512BF16__)
// Denormals become zeros; fast numerics alone use this level.
FUCINA_INLINE void store(uint16_t* p, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v)));
}
FUCINA_INLINE Vec round_bf16(Vec x) {
    const auto bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
#else
// To the upper 16 bits of each lane, in integers, since VCVTNEPS2BF16 flushes denormals.
FUCINA_INLINE __m512i rounded_bits(Vec x) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
}
FUCINA_INLINE void store(uint16_t* p, Vec x) {
    const __m512i upper =
        _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 31, 29, 27, 25,
                         23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __m512i packed = _mm512_permutexvar_epi16(upper, rounded_bits(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(packed));
}
// Rounded to bf16 and back.
FUCINA_INLINE Vec round_bf16(Vec x) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_and_si512(rounded_bits(x), upper))};
}
#endif
// 16 pairs of bf16: the first, or the second, of each.
FUCINA_INLINE Vec load_even(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
FUCINA_INLINE Vec load_odd(const uint16_t* p) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high))};
}
FUCINA_INLINE Vec add(Vec a, Vec b) {
    return {_mm512_add_ps(a.v, b.v)};
}
FUCINA_INLINE Vec sub(Vec a, Vec b) {
    return {_mm512_sub_ps(a.v, b.v)};
}
FUCINA_INLINE Vec mul(Vec a, Vec b) {
    return {_mm512_mul_ps(a.v, b.v)};
}
FUCINA_INLINE Vec div(Vec a, Vec b) {
    return {_mm512_div_ps(a.v, b.v)};
}
FUCINA_INLINE Vec sqrt(Vec a) {
    return {_mm512_sqrt_ps(a.v)};
}
FUCINA_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// b where either is NaN.
FUCINA_INLINE Vec max(Vec a, Vec b) {
    return {_mm512_max_ps(a.v, b.v)};
}
// Lanes 2i and 2i + 1 exchanged.
FUCINA_INLINE Vec swap_pairs(Vec x) {
    return {_mm512_permute_ps(x.v, 0xb1)};
}
// a < b ? yes : no
FUCINA_INLINE Vec select_less(Vec a, Vec b, Vec yes, Vec no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
// x * 2^n, where n stands in the low bits of the float 1.5 * 2^23 + n, |n| < 128.
FUCINA_INLINE Vec scale_by_power(Vec x, Vec magic_plus_n) {
    return {_mm512_scalef_ps(x.v, _mm512_sub_ps(magic_plus_n.v, _mm512_set1_ps(12582912.0f)))};
}

// Lane i + lane i+8, then i + i+4, i+2, i+1: the tree of every level.
FUCINA_INLINE float sum(Vec x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
FUCINA_INLINE float largest(Vec x) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace fucina::cpu::FUCINA_ISA
