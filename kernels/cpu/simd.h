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

#include "kernels/functions.h"

}  // namespace fucina::cpu::FUCINA_ISA
