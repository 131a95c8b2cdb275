#include "kernels/quantize.h"

#include <cmath>

namespace fucina {
namespace {

constexpr float kLargest = 448.0f;
constexpr int kMantissaBits = 3;
constexpr uint8_t kNaN = 0x7f;

}  // namespace

float from_e4m3(uint8_t bits) {
    const int exponent = bits >> kMantissaBits & 15, mantissa = bits & 7;
    if ((bits & 0x7f) == kNaN) return std::nanf("");
    const float magnitude =
        exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                      : std::ldexp(static_cast<float>(mantissa + 8), exponent - 7 - kMantissaBits);
    return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

float quantize_scale(float largest, ScaleFormat format) {
    const float scale = largest / kLargest;
    if (format == ScaleFormat::fp32 || std::isinf(scale)) return scale;
    int exponent = 0;
    const float fraction = std::frexp(scale, &exponent);
    return fraction == 0.5f ? scale : std::ldexp(1.0f, exponent);
}

}  // namespace fucina
