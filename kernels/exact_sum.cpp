#include "kernels/exact_sum.h"

#include <bit>
#include <cmath>
#include <limits>

namespace fucina {
namespace {

constexpr int64_t kMask = (int64_t{1} << 32) - 1;
constexpr int64_t kMostAdditions = int64_t{1} << 30;  // of less than 2^32 each, to 64 bits
constexpr int kLeastExponent = -1074;                 // of the lowest limb's lowest bit

}  // namespace

void ExactSum::add(double x) {
    if (since_carry_ >= kMostAdditions) carry();
    ++since_carry_;
    const auto bits = std::bit_cast<uint64_t>(x);
    const int exponent = static_cast<int>(bits >> 52 & 0x7ff);
    const uint64_t fraction = bits & ((uint64_t{1} << 52) - 1);
    if (exponent == 0x7ff) {
        ++words_[kLimbs];
        return;
    }
    // x = mantissa · 2^(place - 1074)
    const uint64_t mantissa = exponent == 0 ? fraction : fraction | uint64_t{1} << 52;
    const int place = exponent == 0 ? 0 : exponent - 1;
    const auto first = static_cast<size_t>(place / 32);
    const auto wide = static_cast<unsigned __int128>(mantissa) << (place % 32);
    const int64_t sign = (bits >> 63) != 0 ? -1 : 1;
    words_[first] += sign * static_cast<int64_t>(wide & kMask);
    words_[first + 1] += sign * static_cast<int64_t>(wide >> 32 & kMask);
    words_[first + 2] += sign * static_cast<int64_t>(wide >> 64);
}

void ExactSum::add(const ExactSum& other) {
    if (since_carry_ >= kMostAdditions) carry();
    ++since_carry_;
    ExactSum small = other;
    small.carry();
    for (size_t i = 0; i < words_.size(); ++i) words_[i] += small.words_[i];
}

// Every limb but the highest, which has the sign, in [0, 2^32).
void ExactSum::carry() {
    for (size_t i = 0; i + 1 < kLimbs; ++i) {
        words_[i + 1] += words_[i] >> 32;
        words_[i] &= kMask;
    }
    since_carry_ = 1;
}

std::span<int64_t> ExactSum::words() {
    carry();
    since_carry_ = kMostAdditions;  // the caller may add others' to them
    return words_;
}

double ExactSum::value() const {
    if (words_[kLimbs] != 0) return std::numeric_limits<double>::quiet_NaN();
    ExactSum sum = *this;
    sum.carry();
    const bool negative = sum.words_[kLimbs - 1] < 0;
    if (negative) {
        for (int64_t& word : sum.words_) word = -word;
        sum.carry();
    }
    int top = kLimbs - 1;
    while (top >= 0 && sum.words_[static_cast<size_t>(top)] == 0) --top;
    if (top < 0) return 0;
    // 128 bits from the highest down; whatever is below makes the last of them odd, so that the
    // one rounding, that of the conversion, sees it.
    unsigned __int128 bits = 0;
    for (int limb = top; limb > top - 4; --limb) {
        const int64_t word = limb < 0 ? 0 : sum.words_[static_cast<size_t>(limb)];
        bits = bits << 32 | static_cast<uint64_t>(word);
    }
    for (int limb = top - 4; limb >= 0; --limb)
        if (sum.words_[static_cast<size_t>(limb)] != 0) bits |= 1;
    const double magnitude = std::ldexp(static_cast<double>(bits), 32 * (top - 3) + kLeastExponent);
    return negative ? -magnitude : magnitude;
}

}  // namespace fucina
