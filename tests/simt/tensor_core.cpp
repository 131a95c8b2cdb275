// See tensor_core.h. Everything is exact in double: products have at most 16 bits, aligned
// terms 27.
#include "tests/simt/tensor_core.h"

#include <algorithm>
#include <array>
#include <limits>

namespace fucina::simt {
namespace {

constexpr int kRows = 64, kMostColumns = 256, kMostDepth = 32;
constexpr int kZeroExponent = -10000;  // takes no part in the largest
constexpr int kSmallestNormal = -126;  // of fp32

struct Format {
    int depth;              // products of one instruction
    int fraction;           // bits kept below the largest exponent
    int result_fraction;    // bits kept of the result below its own
    int smallest_exponent;  // that terms are aligned to
};
constexpr Format kBf16{16, 25, 23, -133}, kE4m3{32, 13, 13, -132};

struct Value {
    double value = 0;
    int exponent = kZeroExponent;
};

double bf16_value(uint32_t bits) {
    return double{std::bit_cast<float>(bits << 16)};
}

double e4m3_value(uint32_t bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    double value =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    if (exponent == 15 && mantissa == 7) value = std::numeric_limits<double>::quiet_NaN();
    return (bits & 0x80) != 0 ? -value : value;
}

template <size_t kCount>
std::vector<Value> table(double (*value_of)(uint32_t), int smallest) {
    std::vector<Value> values(kCount);
    for (uint32_t bits = 0; bits < kCount; ++bits) {
        const double value = value_of(bits);
        values[bits].value = value;
        if (value != 0) values[bits].exponent = std::max(smallest, std::ilogb(value));
    }
    return values;
}

struct Operands {
    double value[kMostDepth][kMostColumns];  // [k][row], 0 where not finite
    int exponent[kMostDepth][kMostColumns];
    double special[kMostDepth][kMostColumns];  // NaN or infinity, else 0
    bool has_special[kMostColumns];            // [row]
};

void decode(Operand type, const uint8_t* bytes, int rows, Operands& out) {
    static const std::vector<Value> bf16 = table<65536>(bf16_value, kSmallestNormal);
    static const std::vector<Value> e4m3 = table<256>(e4m3_value, -6);
    for (int row = 0; row < rows; ++row) {
        const uint8_t* from = bytes + row * kOperandRowBytes;
        const int depth = type == Operand::bf16 ? 16 : 32;
        out.has_special[row] = false;
        for (int k = 0; k < depth; ++k) {
            const Value& value =
                type == Operand::bf16
                    ? bf16[from[2 * k] | static_cast<uint32_t>(from[2 * k + 1]) << 8]
                    : e4m3[from[k]];
            const bool finite = std::isfinite(value.value);
            out.value[k][row] = finite ? value.value : 0;
            out.special[k][row] = finite ? 0 : value.value;
            out.exponent[k][row] = finite ? value.exponent : kZeroExponent;
            out.has_special[row] |= !finite;
        }
    }
}

double power_of_two(int64_t exponent) {
    return std::bit_cast<double>((exponent + 1023) << 52);
}

int exponent_of(float value) {
    const int biased = static_cast<int>(std::bit_cast<uint32_t>(value) >> 23 & 255);
    return value == 0 ? kZeroExponent : std::max(biased - 127, kSmallestNormal);
}

// The sum cut to so many bits after its first; it may leave fp32's range.
float cut(double sum, int fraction) {
    if (std::fabs(sum) >= 0x1p-126) {
        const uint64_t lost = (uint64_t{1} << (52 - fraction)) - 1;
        return static_cast<float>(std::bit_cast<double>(std::bit_cast<uint64_t>(sum) & ~lost));
    }
    const double unit = power_of_two(kSmallestNormal - fraction);
    return static_cast<float>(std::trunc(sum / unit) * unit) + 0.0f;  // never -0
}

float with_special(const Operands& a, const Operands& b, int depth, int row, int column, float d) {
    double sum = double{d};
    for (int k = 0; k < depth; ++k)
        sum += (a.value[k][row] + a.special[k][row]) * (b.value[k][column] + b.special[k][column]);
    return std::isnan(sum) ? std::bit_cast<float>(0x7fffffffu) : static_cast<float>(sum);
}

// Row `row` of the product. Aligned terms are whole numbers below 2^27: int32 cuts toward zero.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("arch=x86-64-v3", "default")))
#endif
void multiply_row(const Format& format, int n, const Operands& a, const Operands& b, int row,
                  float* d) {
    int largest[kMostColumns];
    double scale[kMostColumns], sum[kMostColumns];
    for (int j = 0; j < n; ++j) largest[j] = std::max(format.smallest_exponent, exponent_of(d[j]));
    for (int k = 0; k < format.depth; ++k)
        for (int j = 0; j < n; ++j)
            largest[j] = std::max(largest[j], a.exponent[k][row] + b.exponent[k][j]);
    for (int j = 0; j < n; ++j) {
        scale[j] = power_of_two(format.fraction - largest[j]);
        sum[j] = static_cast<double>(static_cast<int32_t>(double{d[j]} * scale[j]));
    }
    for (int k = 0; k < format.depth; ++k) {
        const double x = a.value[k][row];
        for (int j = 0; j < n; ++j)
            sum[j] += static_cast<double>(static_cast<int32_t>(x * b.value[k][j] * scale[j]));
    }
    for (int j = 0; j < n; ++j) d[j] = cut(sum[j] / scale[j], format.result_fraction);
}

}  // namespace

void tensor_core_multiply(Operand type, int n, const uint8_t* a_bytes, const uint8_t* b_bytes,
                          float* d) {
    static thread_local Operands a, b;
    const Format& format = type == Operand::bf16 ? kBf16 : kE4m3;
    decode(type, a_bytes, kRows, a);
    decode(type, b_bytes, n, b);
    for (int row = 0; row < kRows; ++row) {
        float before[kMostColumns], *out = d + row * n;
        for (int j = 0; j < n; ++j) {
            before[j] = out[j];
            if (!std::isfinite(out[j])) out[j] = 0;
        }
        multiply_row(format, n, a, b, row, out);
        for (int j = 0; j < n; ++j)
            if (a.has_special[row] || b.has_special[j] || !std::isfinite(before[j]))
                out[j] = with_special(a, b, format.depth, row, j, before[j]);
    }
}

}  // namespace fucina::simt
