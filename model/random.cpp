#include "model/random.h"

#include <bit>
#include <cmath>

#include "kernels/parallel_for.h"
#include "kernels/philox.h"

namespace fucina {

namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kLn2 = 0.69314718055994530942;

// ln x for normal x > 0: x = m 2^e with m in [sqrt½, sqrt2), ln m = 2 atanh((m-1)/(m+1)).
double natural_log(double x) {
    const uint64_t bits = std::bit_cast<uint64_t>(x);
    auto exponent = static_cast<int64_t>(bits >> 52) - 1023;
    double m = std::bit_cast<double>((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        ++exponent;
    }
    const double z = (m - 1) / (m + 1), z2 = z * z;
    constexpr double kTerms[] = {1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
    double sum = 0;
    for (const double term : kTerms) sum = sum * z2 + term;
    return 2 * z * sum + static_cast<double>(exponent) * kLn2;
}

struct SinCos {
    double sin, cos;
};

// Of 2π·turns, turns in [0, 1): Taylor series within an eighth of a turn of the nearest quarter.
SinCos sin_cos_turns(double turns) {
    const int quarter = static_cast<int>(turns * 4 + 0.5);
    const double a = (turns - quarter * 0.25) * 2 * kPi, a2 = a * a;
    // 1 / ((k + 1) (k + 2)): each factor between a term of the series and the one before.
    constexpr double kSin[] = {1.0 / 272, 1.0 / 210, 1.0 / 156, 1.0 / 110,
                               1.0 / 72,  1.0 / 42,  1.0 / 20,  1.0 / 6};
    constexpr double kCos[] = {1.0 / 240, 1.0 / 182, 1.0 / 132, 1.0 / 90,
                               1.0 / 56,  1.0 / 30,  1.0 / 12,  1.0 / 2};
    double s = 1, c = 1;
    for (const double factor : kSin) s = 1 - s * a2 * factor;
    for (const double factor : kCos) c = 1 - c * a2 * factor;
    s *= a;
    switch (quarter % 4) {
        case 1:
            return {c, -s};
        case 2:
            return {-s, -c};
        case 3:
            return {-c, s};
        default:
            return {s, c};
    }
}

// In (0, 1), 52 bits.
double open_uniform(uint32_t high, uint32_t low) {
    const uint64_t bits = ((uint64_t{high} << 32) | low) >> 12;
    return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

// 64-bit FNV-1a.
uint64_t name_hash(std::string_view name) {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    return hash;
}

}  // namespace

void fill_normal(std::span<float> out, int64_t first, uint64_t seed, std::string_view name,
                 double deviation) {
    const uint64_t hash = name_hash(name);
    const RandomKey key{.seed = seed,
                        .purpose = RandomPurpose::initialization,
                        .stream = static_cast<uint32_t>(hash & 0xffffffu),
                        .step = static_cast<uint32_t>(hash >> 32)};
    if (out.empty()) return;
    const auto last = first + static_cast<int64_t>(out.size());
    const int64_t pair = first / 2;
    // Box-Muller: one block gives two normals.
    parallel_for((last + 1) / 2 - pair, [&](int64_t i) {
        const PhiloxBlock bits = random_block(key, static_cast<uint64_t>(pair + i));
        const double radius = std::sqrt(-2 * natural_log(open_uniform(bits[0], bits[1])));
        const SinCos angle = sin_cos_turns(open_uniform(bits[2], bits[3]));
        const double normals[] = {angle.cos, angle.sin};
        for (int side = 0; side < 2; ++side) {
            const int64_t element = 2 * (pair + i) + side;
            if (element >= first && element < last)
                out[static_cast<size_t>(element - first)] =
                    static_cast<float>(deviation * (radius * normals[side]));
        }
    });
}

}  // namespace fucina
