// The oracle of kernels/quantize.h in plain loops, and E4M3 in software.
#pragma once
#include <cstdint>

#include "kernels/quantize.h"

namespace fucina::reference {

// OCP 8-bit floating point E4M3: no infinities, S.1111.111 is NaN, largest 448. Rounds to nearest
// even, saturates.
uint8_t to_e4m3(float x);
using fucina::from_e4m3;
using fucina::quantize_scale;

void quantize(const Quantize& io);

}  // namespace fucina::reference
