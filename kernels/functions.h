// Functions whose bits are the same on every CPU and on CUDA, written once with what
// kernels/cpu/simd.h has for sixteen lanes and kernels/cuda/device/functions.h for one: both
// include this file inside the namespace of their Vec.
#pragma once

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
