// Vec as an array, for any x86-64. Included by simd.h.
#pragma once

namespace fucina::cpu::FUCINA_ISA {

struct Vec {
    float v[16];
};

#define FUCINA_LANES for (int i = 0; i < 16; ++i)

FUCINA_INLINE Vec set1(float x) {
    Vec r;
    FUCINA_LANES r.v[i] = x;
    return r;
}
FUCINA_INLINE Vec zero() {
    return set1(0.0f);
}
FUCINA_INLINE Vec load(const float* p) {
    Vec r;
    FUCINA_LANES r.v[i] = p[i];
    return r;
}
FUCINA_INLINE void store(float* p, Vec x) {
    FUCINA_LANES p[i] = x.v[i];
}
// Past the caches; p is a multiple of 64 bytes.
FUCINA_INLINE void stream(float* p, Vec x) {
    store(p, x);
}
FUCINA_INLINE Vec load(const uint16_t* p) {
    Vec r;
    FUCINA_LANES r.v[i] = bf16_float(p[i]);
    return r;
}
FUCINA_INLINE void store(uint16_t* p, Vec x) {
    FUCINA_LANES p[i] = float_bf16(x.v[i]);
}
FUCINA_INLINE Vec load_even(const uint16_t* p) {
    Vec r;
    FUCINA_LANES r.v[i] = bf16_float(p[2 * i]);
    return r;
}
FUCINA_INLINE Vec load_odd(const uint16_t* p) {
    Vec r;
    FUCINA_LANES r.v[i] = bf16_float(p[2 * i + 1]);
    return r;
}
FUCINA_INLINE Vec add(Vec a, Vec b) {
    FUCINA_LANES a.v[i] += b.v[i];
    return a;
}
FUCINA_INLINE Vec sub(Vec a, Vec b) {
    FUCINA_LANES a.v[i] -= b.v[i];
    return a;
}
FUCINA_INLINE Vec mul(Vec a, Vec b) {
    FUCINA_LANES a.v[i] *= b.v[i];
    return a;
}
FUCINA_INLINE Vec div(Vec a, Vec b) {
    FUCINA_LANES a.v[i] /= b.v[i];
    return a;
}
FUCINA_INLINE Vec sqrt(Vec a) {
    FUCINA_LANES a.v[i] = __builtin_sqrtf(a.v[i]);
    return a;
}
FUCINA_INLINE Vec fma(Vec a, Vec b, Vec c) {
    FUCINA_LANES c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}
FUCINA_INLINE Vec max(Vec a, Vec b) {
    FUCINA_LANES b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return b;
}
// Lanes 2i and 2i + 1 exchanged.
FUCINA_INLINE Vec swap_pairs(Vec x) {
    Vec y;
    FUCINA_LANES y.v[i] = x.v[i ^ 1];
    return y;
}
FUCINA_INLINE Vec select_less(Vec a, Vec b, Vec yes, Vec no) {
    FUCINA_LANES no.v[i] = a.v[i] < b.v[i] ? yes.v[i] : no.v[i];
    return no;
}
FUCINA_INLINE Vec scale_by_power(Vec x, Vec magic_plus_n) {
    FUCINA_LANES {
        const int32_t n = static_cast<int32_t>(float_bits(magic_plus_n.v[i]) - 0x4b400000u);
        const int32_t half = n >> 1;
        const float first = bits_float(static_cast<uint32_t>(half + 127) << 23);
        const float rest = bits_float(static_cast<uint32_t>(n - half + 127) << 23);
        x.v[i] = x.v[i] * first * rest;
    }
    return x;
}

// Lane i + lane i+8, then i + i+4, i+2, i+1: the tree of every level.
FUCINA_INLINE float sum(Vec x) {
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) x.v[i] += x.v[i + width];
    return x.v[0];
}
FUCINA_INLINE float largest(Vec x) {
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) x.v[i] = x.v[i] > x.v[i + width] ? x.v[i] : x.v[i + width];
    return x.v[0];
}

#undef FUCINA_LANES

}  // namespace fucina::cpu::FUCINA_ISA
