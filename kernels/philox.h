// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a random
// function of a key and a counter. Nothing is advanced, so there is no state to save, to restore or
// to share: the same (seed, purpose, stream, step, index) gives the same bits on any rank and
// thread.
#pragma once
#include <array>
#include <cstdint>

namespace fucina {

using PhiloxBlock = std::array<uint32_t, 4>;

constexpr PhiloxBlock philox4x32(PhiloxBlock counter, std::array<uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{0xD2511F53} * counter[0];
        const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    return counter;
}

// What numbers are drawn for; part of the counter, so that no two uses ever share numbers.
// Values are part of every run's identity: append, never renumber.
enum class RandomPurpose : uint8_t {
    test = 0,
    initialization = 1,  // stream: parameter, index: element
    data_order = 2,      // stream: source, step: epoch, index: the permutation's own
    sampling = 3,        // step: token of the text, index: sequence
};

struct RandomKey {
    uint64_t seed = 0;
    RandomPurpose purpose = RandomPurpose::test;
    uint32_t stream = 0;  // below 2^24
    uint32_t step = 0;
};

// 128 random bits, a function of the key and the index alone.
constexpr PhiloxBlock random_block(const RandomKey& key, uint64_t index) {
    return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), key.step,
                       static_cast<uint32_t>(key.purpose) << 24 | (key.stream & 0xffffffu)},
                      {static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32)});
}

// Uniform in (0, 1), the centres of 2^23 equal cells: exact in fp32, never 0 and never 1.
constexpr double to_unit_interval(uint32_t bits) {
    return (static_cast<double>(bits >> 9) + 0.5) * 0x1p-23;
}

}  // namespace fucina
