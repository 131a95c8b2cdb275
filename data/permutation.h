// A pseudo-random permutation of [0, n), evaluated at one index at a time without a table.
#pragma once
#include <bit>
#include <cstdint>
#include <utility>

#include "kernels/philox.h"

namespace fucina {

// Where `index` in [0, n) goes under the permutation that `key` names. A Feistel network (Luby and
// Rackoff 1988) with Philox as its round function permutes the smallest range of 4^k numbers that
// holds n; indices that land outside [0, n) walk on until they land inside (Black and Rogaway
// 2002), fewer than four times on average.
inline int64_t permuted(int64_t index, int64_t n, const RandomKey& key) {
    constexpr uint64_t kRounds = 8;
    if (n <= 1) return index;
    const int half = (std::bit_width(static_cast<uint64_t>(n - 1)) + 1) / 2;
    const uint64_t mask = (uint64_t{1} << half) - 1;
    auto value = static_cast<uint64_t>(index);
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < kRounds; ++round) {
            const uint64_t mixed = random_block(key, round << 32 | right)[0] & mask;
            left = std::exchange(right, left ^ mixed);
        }
        value = left << half | right;
    } while (value >= static_cast<uint64_t>(n));
    return static_cast<int64_t>(value);
}

}  // namespace fucina
