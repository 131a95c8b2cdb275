// exp, sigmoid and logarithm of kernels/functions.h for a thread's one value: the CPU's bits.
#pragma once
#include "kernels/cuda/device/platform.h"

namespace fucina::cuda {
namespace lane {

struct Vec {
    float x;
};

#define FUCINA_INLINE __device__ __forceinline__

FUCINA_INLINE Vec set1(float x) {
    return {x};
}
FUCINA_INLINE Vec zero() {
    return {0.0f};
}
FUCINA_INLINE Vec add(Vec a, Vec b) {
    return {a.x + b.x};
}
FUCINA_INLINE Vec sub(Vec a, Vec b) {
    return {a.x - b.x};
}
FUCINA_INLINE Vec mul(Vec a, Vec b) {
    return {a.x * b.x};
}
FUCINA_INLINE Vec div(Vec a, Vec b) {
    return {a.x / b.x};
}
FUCINA_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return {fmaf(a.x, b.x, c.x)};
}
FUCINA_INLINE Vec select_less(Vec a, Vec b, Vec yes, Vec no) {
    return a.x < b.x ? yes : no;
}
// x · 2^n, in two steps, since 2^n alone may be out of range.
FUCINA_INLINE Vec scale_by_power(Vec x, Vec magic_plus_n) {
    const int32_t n = static_cast<int32_t>(__float_as_uint(magic_plus_n.x) - 0x4b400000u);
    const int32_t half = n >> 1;
    const float first = __uint_as_float(static_cast<uint32_t>(half + 127) << 23);
    const float rest = __uint_as_float(static_cast<uint32_t>(n - half + 127) << 23);
    return {x.x * first * rest};
}

#include "kernels/functions.h"

#undef FUCINA_INLINE

}  // namespace lane

using lane::logarithm;

__device__ __forceinline__ float exponential(float x) {
    return lane::exp({x}).x;
}
__device__ __forceinline__ float exp_nonpositive(float x) {
    return lane::exp_nonpositive({x}).x;
}
__device__ __forceinline__ float sigmoid(float x) {
    return lane::sigmoid({x}).x;
}

// Of 16 neighbouring lanes of a warp, in all of them: the tree of kernels/cpu/simd.h.
__device__ __forceinline__ float sum_of_16(float value) {
    for (int distance = 8; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

}  // namespace fucina::cuda
