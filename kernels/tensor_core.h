// H100's tensor-core arithmetic, bit for bit as published: the accumulator and one instruction's
// products are aligned to their largest exponent, cut toward zero there, added exactly, and the sum
// is cut again. Products' exponents are those of their factors added, denormals' as they are.
//   bf16: 16 products, 25 bits below the leading one's place, results of 24 bits;
//   e4m3: 32 products, 13 bits below it, results of 14 bits: hence FP8's promotion every 128.
// Sources: the H100 models of Hawkeye (github.com/badasherez/gpu-simulator) and mmaemu (PyPI).
//
// Everything here is of the including file's own, as kernels/cpu/*_isa.cpp need it.
#pragma once
#include <cstdint>

#define FUCINA_TENSOR_CORE static inline __attribute__((always_inline))

namespace fucina {

struct TensorCoreFormat {
    int depth;              // products of one instruction
    int fraction;           // bits kept below the largest exponent
    int result_fraction;    // bits kept of the result below its own
    int smallest_exponent;  // that terms are aligned to
};
constexpr TensorCoreFormat kTensorCoreBf16{16, 25, 23, -133}, kTensorCoreE4m3{32, 13, 13, -132};
// For sums that began with 0: none of them but 0 is below 2^-25, and fp32 can scale to this.
constexpr TensorCoreFormat kTensorCoreE4m3FromZero{32, 13, 13, -100};
constexpr int kZeroExponent = -10000;  // takes no part in the largest
constexpr int kSmallestNormal = -126;  // of fp32
constexpr int kSmallestE4m3 = -6;

FUCINA_TENSOR_CORE void power_of_two(int exponent, double& out) {
    out = __builtin_bit_cast(double, static_cast<int64_t>(exponent + 1023) << 52);
}
FUCINA_TENSOR_CORE void power_of_two(int exponent, float& out) {
    out = __builtin_bit_cast(float, (exponent + 127) << 23);
}
FUCINA_TENSOR_CORE int exponent_of(float value, int smallest) {
    const auto biased = static_cast<int>(__builtin_bit_cast(uint32_t, value) >> 23 & 255);
    return value == 0 ? kZeroExponent : biased - 127 > smallest ? biased - 127 : smallest;
}

// The sum cut to so many bits after its first; in double it may leave fp32's range.
FUCINA_TENSOR_CORE float cut(double sum, int fraction) {
    if (__builtin_fabs(sum) >= 0x1p-126) {
        const uint64_t lost = (uint64_t{1} << (52 - fraction)) - 1;
        return static_cast<float>(
            __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, sum) & ~lost));
    }
    double unit = 0;
    power_of_two(kSmallestNormal - fraction, unit);
    return static_cast<float>(__builtin_trunc(sum / unit) * unit) + 0.0f;  // never -0
}
FUCINA_TENSOR_CORE float cut(float sum, int fraction) {
    const uint32_t lost = (uint32_t{1} << (23 - fraction)) - 1;
    return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, sum) & ~lost);
}

// A row of A, or the columns of B: of each k values, and their exponents, `stride` apart.
template <class Real>
struct TensorCoreOperand {
    const Real* value;
    const int* exponent;
    int stride;
};

// d[j] += a's row times column j of b, by one instruction, n <= kMost. All finite. Aligned terms
// are whole numbers below 2^27, in e4m3 2^15: int32 cuts toward zero. Real and Sum are double, or
// in e4m3 float and int32_t.
template <class Real, class Sum, int kMost>
FUCINA_TENSOR_CORE void tensor_core_row(const TensorCoreFormat& format, int n,
                                        const TensorCoreOperand<Real>& a,
                                        const TensorCoreOperand<Real>& b, float* d) {
    int largest[kMost];
    Real scale[kMost];
    Sum sum[kMost];
    for (int j = 0; j < n; ++j) {
        const int exponent = exponent_of(d[j], kSmallestNormal);
        largest[j] = exponent > format.smallest_exponent ? exponent : format.smallest_exponent;
    }
    for (int k = 0; k < format.depth; ++k)
        for (int j = 0; j < n; ++j) {
            const int exponent = a.exponent[k * a.stride] + b.exponent[k * b.stride + j];
            largest[j] = exponent > largest[j] ? exponent : largest[j];
        }
    for (int j = 0; j < n; ++j) {
        power_of_two(format.fraction - largest[j], scale[j]);
        sum[j] = static_cast<Sum>(static_cast<int32_t>(Real{d[j]} * scale[j]));
    }
    for (int k = 0; k < format.depth; ++k) {
        const Real x = a.value[k * a.stride];
        for (int j = 0; j < n; ++j)
            sum[j] +=
                static_cast<Sum>(static_cast<int32_t>(x * b.value[k * b.stride + j] * scale[j]));
    }
    for (int j = 0; j < n; ++j) {
        Real unit = 0;
        power_of_two(largest[j] - format.fraction, unit);
        d[j] = cut(static_cast<Real>(sum[j]) * unit, format.result_fraction);
    }
}

}  // namespace fucina
