// See tensor_core.h. Everything is exact in double: products have at most 16 bits, aligned
// terms 27.
#include "tests/simt/tensor_core.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/tensor_core.h"

namespace fucina::simt {
namespace {

constexpr int kRows = 64, kMostColumns = 256, kMostDepth = 32;

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
    static const std::vector<Value> e4m3 = table<256>(e4m3_value, kSmallestE4m3);
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

float with_special(const Operands& a, const Operands& b, int depth, int row, int column, float d) {
    double sum = double{d};
    for (int k = 0; k < depth; ++k)
        sum += (a.value[k][row] + a.special[k][row]) * (b.value[k][column] + b.special[k][column]);
    return std::isnan(sum) ? std::bit_cast<float>(0x7fffffffu) : static_cast<float>(sum);
}

// Row `row` of the product.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("arch=x86-64-v3", "default")))
#endif
void multiply_row(const TensorCoreFormat& format, int n, const Operands& a, const Operands& b,
                  int row, float* d) {
    tensor_core_row<double, double, kMostColumns>(
        format, n, {&a.value[0][row], &a.exponent[0][row], kMostColumns},
        {b.value[0], b.exponent[0], kMostColumns}, d);
}

}  // namespace

void tensor_core_multiply(Operand type, int n, const uint8_t* a_bytes, const uint8_t* b_bytes,
                          float* d) {
    static thread_local Operands a, b;
    const TensorCoreFormat& format = type == Operand::bf16 ? kTensorCoreBf16 : kTensorCoreE4m3;
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
