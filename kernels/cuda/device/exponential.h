// exp and log with the bits of kernels/cpu/simd.h: the same polynomials, no approximate
// instruction.
#pragma once
#include "kernels/cuda/device/platform.h"

namespace fucina::cuda {

// e^x within 2 ulp for x <= 0; 0 below -87.3; NaN stays NaN.
__device__ __forceinline__ float exp_nonpositive(float x) {
    const float shifted = fmaf(x, 1.44269504088896341f, 12582912.0f);  // 1.5 * 2^23
    const float n = shifted - 12582912.0f;
    const float r = fmaf(n, 2.12194440e-4f, fmaf(n, -0.693359375f, x));
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p * r, r, r) + 1.0f;
    const float power = __uint_as_float((__float_as_uint(shifted) - 0x4b400000u + 127u) << 23);
    return x < -87.3f ? 0.0f : p * power;
}

// The natural logarithm of x >= 1.
__device__ __forceinline__ double logarithm(double x) {
    auto bits = __builtin_bit_cast(uint64_t, x);
    const int64_t e = static_cast<int64_t>(bits - 0x3fe6a09e667f3bcdu) >> 52;  // of 1/sqrt 2
    bits -= static_cast<uint64_t>(e) << 52;
    const double m = __builtin_bit_cast(double, bits), s = (m - 1) / (m + 1), square = s * s;
    double series = 0;
    for (int power = 21; power >= 1; power -= 2) series = series * square + 1.0 / power;
    return static_cast<double>(e) * 0.693147180559945309417 + 2 * s * series;
}

}  // namespace fucina::cuda
