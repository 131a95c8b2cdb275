// Sixteen fp32 lanes on every instruction set: one zmm, two ymm, or an array. Code written with Vec
// gives the same bits at every level, since each operation is an IEEE operation per lane and
// horizontal sums follow one fixed tree.
//
// Files kernels/cpu/*_isa.cpp are compiled once per level (kernels/CMakeLists.txt) with the level's
// flags and FUCINA_ISA set to its name, which is also their namespace. They may include this file
// and headers of plain declarations only: an inline function of any other header would be compiled
// with the level's instructions and might be the copy that the linker keeps for everybody.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#ifndef FUCINA_ISA
#error "simd.h is for files that are compiled per instruction set"
#endif

#define FUCINA_INLINE static inline __attribute__((always_inline))

namespace fucina::cpu::FUCINA_ISA {

constexpr int kLanes = 16;

FUCINA_INLINE uint32_t float_bits(float x) {
    return __builtin_bit_cast(uint32_t, x);
}
FUCINA_INLINE float bits_float(uint32_t x) {
    return __builtin_bit_cast(float, x);
}
FUCINA_INLINE float bf16_float(uint16_t x) {
    return bits_float(uint32_t{x} << 16);
}
// As to_bfloat16 of kernels/dtype.h.
FUCINA_INLINE uint16_t float_bf16(float x) {
    const uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace fucina::cpu::FUCINA_ISA

#if defined(__AVX512F__)
#include "kernels/cpu/simd_avx512.h"
#elif defined(__AVX2__)
#include "kernels/cpu/simd_avx2.h"
#else
#include "kernels/cpu/simd_scalar.h"
#endif

namespace fucina::cpu::FUCINA_ISA {

// The first n lanes from p (n may be more than 16), the others 0.
FUCINA_INLINE Vec load_some(const float* p, int64_t n) {
    if (n >= kLanes) return load(p);
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
}
FUCINA_INLINE Vec load_some(const uint16_t* p, int64_t n) {
    if (n >= kLanes) return load(p);
    uint16_t lanes[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
}
FUCINA_INLINE void store_some(float* p, Vec x, int64_t n) {
    if (n >= kLanes) return store(p, x);
    float lanes[kLanes];
    store(lanes, x);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
FUCINA_INLINE void store_some(uint16_t* p, Vec x, int64_t n) {
    if (n >= kLanes) return store(p, x);
    uint16_t lanes[kLanes];
    store(lanes, x);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
#if !defined(__AVX512F__)
// Rounded to bf16 and back.
FUCINA_INLINE Vec round_bf16(Vec x) {
    uint16_t lanes[kLanes];
    store(lanes, x);
    return load(lanes);
}
#endif

// e^x within 2 ulp for x <= 0, or little above; 0 below -87.3; NaN stays NaN. Cody-Waite reduction
// by ln 2, then the degree 6 polynomial of Cephes' expf.
FUCINA_INLINE Vec exp_nonpositive(Vec x) {
    const Vec magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Vec shifted = fma(x, set1(1.44269504088896341f), magic);
    const Vec n = sub(shifted, magic);
    const Vec r = fma(n, set1(2.12194440e-4f), fma(n, set1(-0.693359375f), x));
    Vec p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = add(fma(mul(p, r), r, r), set1(1.0f));
    p = scale_by_power(p, shifted);
    return select_less(x, set1(-87.3f), zero(), p);
}

// The same for all x; infinity above 88.7.
FUCINA_INLINE Vec exp(Vec x) {
    return select_less(set1(88.7f), x, set1(__builtin_inff()), exp_nonpositive(x));
}

// The natural logarithm of x >= 1 in plain double arithmetic, since libm's bits depend on the CPU:
// x = m 2^e with m in [1/sqrt 2, sqrt 2), log m = 2 artanh((m - 1) / (m + 1)).
FUCINA_INLINE double logarithm(double x) {
    uint64_t bits = __builtin_bit_cast(uint64_t, x);
    const uint64_t root_half = 0x3fe6a09e667f3bcdu;
    const int64_t e = static_cast<int64_t>(bits - root_half) >> 52;
    bits -= static_cast<uint64_t>(e) << 52;
    const double m = __builtin_bit_cast(double, bits), s = (m - 1) / (m + 1), square = s * s;
    double series = 0;
    for (int power = 21; power >= 1; power -= 2) series = series * square + 1.0 / power;
    return static_cast<double>(e) * 0.693147180559945309417 + 2 * s * series;
}

// 1 / (1 + e^-x)
FUCINA_INLINE Vec sigmoid(Vec x) {
    return div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), x))));
}

}  // namespace fucina::cpu::FUCINA_ISA
