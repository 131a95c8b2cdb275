// Normal random numbers for fresh weights: a value is a function of seed, name and index alone
// (kernels/philox.h), and the same bits on every machine, since log, sine and cosine are our own.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

namespace fucina {

// N(0, deviation): element i of `name`, of which out[0] is number `first`, depends on (seed, name,
// i) only.
void fill_normal(std::span<float> out, int64_t first, uint64_t seed, std::string_view name,
                 double deviation);

}  // namespace fucina
