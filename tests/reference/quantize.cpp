// See quantize.h.
#include "tests/reference/quantize.h"

#include <bit>
#include <cmath>

#include "tests/reference/rows.h"

namespace fucina::reference {
namespace {

constexpr float kLargest = 448.0f;
constexpr int kSmallestExponent = -6;  // of a normal number
constexpr int kMantissaBits = 3;
constexpr uint8_t kNaN = 0x7f;

// Row `row` of a matrix whose elements x(row, column) exist for columns below `present`.
template <class Element>
void quantize_row(int64_t row, int64_t present, const QuantizedRows& out, ScaleFormat format,
                  const Element& x) {
    auto* values = reinterpret_cast<uint8_t*>(out.values.raw()) + row * out.values.row_stride();
    const int64_t columns = out.values.row_size();
    for (int64_t begin = 0; begin < columns; begin += kQuantizeBlock) {
        const int64_t end = std::min(begin + kQuantizeBlock, columns);
        float largest = kQuantizeFloor;
        for (int64_t c = begin; c < std::min(end, present); ++c)
            largest = std::fmax(largest, std::fabs(x(c)));
        const float scale = quantize_scale(largest, format), inverse = 1.0f / scale;
        for (int64_t c = begin; c < end; ++c)
            values[c] = c < present ? to_e4m3(x(c) * inverse) : uint8_t{0};
        out.scales.row<float>(begin / kQuantizeBlock)[row] = scale;
    }
}

}  // namespace

uint8_t to_e4m3(float x) {
    const uint8_t sign = std::signbit(x) ? 0x80 : 0;
    if (std::isnan(x)) return kNaN;
    const float magnitude = std::fabs(x);
    if (magnitude >= kLargest) return sign | 0x7e;
    if (magnitude == 0.0f) return sign;
    int exponent = 0;
    std::frexp(magnitude, &exponent);  // magnitude in [0.5, 1) · 2^exponent
    exponent = std::max(exponent - 1, kSmallestExponent);
    // In units of the last place; nearbyint rounds ties to even.
    const auto units =
        static_cast<int>(std::nearbyint(std::ldexp(magnitude, kMantissaBits - exponent)));
    // A carry out of the mantissa lands in the exponent field, as it should.
    const int field = (exponent - kSmallestExponent) * (1 << kMantissaBits) + units;
    return static_cast<uint8_t>(sign | std::min(field, 0x7e));
}

void quantize(const Quantize& io) {
    const int64_t rows = io.x.rows(), columns = io.x.row_size();
    const auto at = [&](int64_t t, int64_t k) { return to_float(io.x.row<bfloat16>(t)[k]); };
    for (int64_t t = 0; t < rows; ++t)
        quantize_row(t, columns, io.rows, io.format, [&](int64_t k) { return at(t, k); });
    if (!io.columns.defined()) return;
    for (int64_t k = 0; k < columns; ++k)
        quantize_row(k, rows, io.columns, io.format, [&](int64_t t) { return at(t, k); });
}

}  // namespace fucina::reference
