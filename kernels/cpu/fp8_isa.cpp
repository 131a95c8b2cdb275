// Quantisation and promotion of FP8 products, and the tensor cores' sums in software.
#include "kernels/cpu/fp8_kernels.h"
#include "kernels/cpu/gemm_tokens.h"
#include "kernels/tensor_core.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

constexpr float kLargestE4m3 = 448.0f, kFloor = 0x1p-40f;  // of kernels/quantize.h
constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;

// x as E4M3, nearest even and saturating, in fp32's bits.
FUCINA_INLINE uint32_t e4m3_bits(float x) {
    const uint32_t bits = float_bits(x), most = float_bits(kLargestE4m3);
    const uint32_t m = (bits & kMagnitude) < most ? bits & kMagnitude : most;
    const uint32_t normal = (m + 0x7ffffu + (m >> 20 & 1u)) & 0xfff00000u;
    // Below 2^-6 values are multiples of 2^-9, the last place of numbers from 2^14 on.
    const uint32_t small = float_bits(bits_float(m) + 0x1p14f - 0x1p14f);
    return (m < float_bits(0x1p-6f) ? small : normal) | (bits & ~kMagnitude);
}
// Of the bits of the largest magnitude in a block.
FUCINA_INLINE float scale_of(uint32_t largest) {
    if (largest >= kInfinity) return __builtin_nanf("");
    const float x = bits_float(largest);
    return (x > kFloor ? x : kFloor) / kLargestE4m3;
}

float quantize_row(const uint16_t* x, int64_t n, uint16_t* values) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t m = x[i] & 0x7fffu;
        largest = m > largest ? m : largest;
    }
    const float scale = scale_of(largest << 16), inverse = 1.0f / scale;
    for (int64_t i = 0; i < n; ++i)
        values[i] = static_cast<uint16_t>(e4m3_bits(bf16_float(x[i]) * inverse) >> 16);
    return scale;
}

void quantize_tokens(const TokenColumns& in, uint16_t* values, float* scales) {
    uint32_t largest[kBlock] = {};
    float inverse[kBlock];
    for (int64_t t = 0; t < in.k; ++t) {
        const uint16_t* from = token<uint16_t>(in, t);
        uint16_t* to = values + t * kBlock;
        for (int j = 0; j < kBlock; ++j) to[j] = j < in.columns ? from[j] : 0;
        for (int j = 0; j < kBlock; ++j) {
            const uint32_t m = to[j] & 0x7fffu;
            largest[j] = m > largest[j] ? m : largest[j];
        }
    }
    for (int j = 0; j < kBlock; ++j) {
        scales[j] = scale_of(largest[j] << 16);
        inverse[j] = 1.0f / scales[j];
    }
    for (int64_t t = 0; t < in.k; ++t, values += kBlock)
        for (int j = 0; j < kBlock; ++j)
            values[j] = static_cast<uint16_t>(e4m3_bits(bf16_float(values[j]) * inverse[j]) >> 16);
}

float largest_of(const float* x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t m = float_bits(x[i]) & kMagnitude;
        largest = m > largest ? m : largest;
    }
    return bits_float(largest);
}
void round_scaled(const float* x, int64_t n, float inverse, float* values) {
    for (int64_t i = 0; i < n; ++i) values[i] = bits_float(e4m3_bits(x[i] * inverse));
}

void promote(const float* part, const float* rows, const float* columns, int count, bool more,
             float* sum) {
    const Vec low = load(columns), high = load(columns + kLanes);
    for (int i = 0; i < count; ++i, part += kBlock, sum += kBlock) {
        const Vec row = set1(rows[i]);
        const Vec a = more ? load(sum) : zero(), b = more ? load(sum + kLanes) : zero();
        store(sum, fma(mul(row, low), load(part), a));
        store(sum + kLanes, fma(mul(row, high), load(part + kLanes), b));
    }
}

// A is [k/32][32 rows][32] in bf16.
void pack_a(const void* const* rows, int count, int64_t k, void* a) {
    auto* out = static_cast<uint16_t*>(a);
    for (int64_t first = 0; first < k; first += kBlock)
        for (int i = 0; i < kBlock; ++i, out += kBlock)
            for (int64_t j = 0; j < kBlock; ++j)
                out[j] = i < count && first + j < k
                             ? static_cast<const uint16_t*>(rows[i])[first + j]
                             : 0;
}
void pack_a_transposed(const TokenColumns& in, void* a) {
    auto* out = static_cast<uint16_t*>(a) + in.begin * kBlock;
    for (int64_t first = in.begin; first < in.end; first += kBlock, out += kBlock * kBlock)
        for (int64_t t = 0; t < kBlock; ++t)
            for (int i = 0; i < kBlock; ++i)
                out[i * kBlock + t] =
                    first + t < in.end && i < in.columns ? token<uint16_t>(in, first + t)[i] : 0;
}

struct Terms {
    float value[kBlock * kBlock];
    int exponent[kBlock * kBlock];
};
FUCINA_INLINE void set_term(Terms& terms, int64_t i, uint32_t bits) {
    terms.value[i] = bits_float(bits);
    terms.exponent[i] = exponent_of(terms.value[i], kSmallestE4m3);
}

void multiply(const void* a, const void* b, int64_t k, int rows, bool accumulate, float* c) {
    if (!accumulate)
        for (int64_t i = 0; i < rows * kBlock; ++i) c[i] = 0;
    Terms left, right;
    const auto* from = static_cast<const uint16_t*>(a);
    const auto* pairs = static_cast<const uint32_t*>(b);
    for (int64_t done = 0; done < k; done += kBlock, from += kBlock * kBlock) {
        for (int half = 0; half < 2; ++half)
            for (int pair = 0; pair < 16; ++pair)
                for (int j = 0; j < 16; ++j) {
                    const uint32_t both = pairs[done * 16 + half * 256 + pair * 16 + j];
                    const int64_t to = 2 * pair * kBlock + half * 16 + j;
                    set_term(right, to, both << 16);
                    set_term(right, to + kBlock, both & 0xffff0000u);
                }
        for (int64_t i = 0; i < rows * kBlock; ++i) set_term(left, i, uint32_t{from[i]} << 16);
        for (int i = 0; i < rows; ++i)
            tensor_core_row<float, int32_t, kBlock>(
                kTensorCoreE4m3FromZero, kBlock,
                {left.value + i * kBlock, left.exponent + i * kBlock, 1},
                {right.value, right.exponent, kBlock}, c + i * kBlock);
    }
}

}  // namespace

constinit const Fp8Kernels kFp8Kernels = {quantize_row, quantize_tokens, largest_of, round_scaled,
                                          promote};
constinit const GemmKernel kTensorCoreKernel = {.a_bytes_per_k = 2 * kBlock,
                                                .pack_a = pack_a,
                                                .pack_a_transposed = pack_a_transposed,
                                                .multiply = multiply,
                                                .multiply_transposed = multiply};

}  // namespace fucina::cpu::FUCINA_ISA
