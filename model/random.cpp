#include "model/random.h"

#include <bit>
#include <cmath>

#include "kernels/parallel_for.h"

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
    double sum = 0;
    for (int k = 21; k >= 1; k -= 2) sum = sum * z2 + 1.0 / k;
    return 2 * z * sum + static_cast<double>(exponent) * kLn2;
}

struct SinCos {
    double sin, cos;
};

// Of 2π·turns, turns in [0, 1): Taylor series within an eighth of a turn of the nearest quarter.
SinCos sin_cos_turns(double turns) {
    const int quarter = static_cast<int>(turns * 4 + 0.5);
    const double a = (turns - quarter * 0.25) * 2 * kPi, a2 = a * a;
    double s = 0, c = 0;
    for (int k = 15; k >= 1; k -= 2) s = 1 - s * a2 / ((k + 1) * (k + 2));
    for (int k = 14; k >= 0; k -= 2) c = 1 - c * a2 / ((k + 1) * (k + 2));
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

std::array<uint32_t, 2> key_of(uint64_t seed, std::string_view name) {
    const uint64_t key = seed ^ name_hash(name);
    return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

std::array<uint32_t, 4> block_of(uint64_t seed, uint64_t index) {
    return {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
            static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
}

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53u} * counter[0];
        const uint64_t b = uint64_t{0xCD9E8D57u} * counter[2];
        counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    return counter;
}

uint64_t name_hash(std::string_view name) {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
    return hash;
}

void fill_normal(std::span<float> out, uint64_t seed, std::string_view name, double deviation) {
    const std::array<uint32_t, 2> key = key_of(seed, name);
    const auto pairs = static_cast<int64_t>((out.size() + 1) / 2);
    // Box-Muller: one Philox block gives two normals.
    parallel_for(pairs, [&](int64_t pair) {
        const std::array<uint32_t, 4> bits =
            philox(block_of(seed, static_cast<uint64_t>(pair)), key);
        const double radius = std::sqrt(-2 * natural_log(open_uniform(bits[0], bits[1])));
        const SinCos angle = sin_cos_turns(open_uniform(bits[2], bits[3]));
        const auto i = static_cast<size_t>(2 * pair);
        out[i] = static_cast<float>(deviation * (radius * angle.cos));
        if (i + 1 < out.size()) out[i + 1] = static_cast<float>(deviation * (radius * angle.sin));
    });
}

double uniform(uint64_t seed, std::string_view purpose, uint64_t index) {
    const std::array<uint32_t, 4> bits = philox(block_of(seed, index), key_of(seed, purpose));
    return static_cast<double>(((uint64_t{bits[0]} << 32) | bits[1]) >> 11) * 0x1p-53;
}

}  // namespace fucina
