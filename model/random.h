// Counter-based random numbers (Philox 4x32-10, Salmon et al. 2011): a value is a function of key and counter alone, so
// that no state per rank exists. Normals use our own log, sine and cosine, which are the same bits on every machine.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace fucina {

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// 64-bit FNV-1a, for keys made of names.
uint64_t name_hash(std::string_view name);

// N(0, deviation): element i depends on (seed, name, i) only.
void fill_normal(std::span<float> out, uint64_t seed, std::string_view name, double deviation);

// In [0, 1).
double uniform(uint64_t seed, std::string_view purpose, uint64_t index);

}  // namespace fucina
