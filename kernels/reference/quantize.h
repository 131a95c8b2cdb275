// The oracle of kernels/quantize.h in plain loops, and E4M3 in software.
#pragma once
#include <cstdint>

#include "kernels/quantize.h"

namespace fucina::reference {

// OCP 8-bit floating point E4M3: no infinities, S.1111.111 is NaN, largest 448. Rounds to nearest
// even, saturates.
uint8_t to_e4m3(float x);
float from_e4m3(uint8_t bits);

float quantize_scale(float largest, ScaleFormat format);
void quantize(const Quantize& io);

}  // namespace fucina::reference
