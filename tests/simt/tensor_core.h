// The instruction of kernels/tensor_core.h on tiles, and what becomes of what is not finite.
#pragma once
#include <cstdint>

#include "tests/simt/simt.h"

namespace fucina::simt {

constexpr int kOperandRowBytes = 32;  // of one instruction: 16 values in bf16, 32 in e4m3

// d[i, j] = a[i, :] . b[j, :] + d[i, j] for 64 rows i and n columns j. Rows of a and b are 32 bytes
// and follow each other. Results that are not finite are those of IEEE arithmetic, NaN as 7fffffff.
void tensor_core_multiply(Operand type, int n, const uint8_t* a, const uint8_t* b, float* d);

}  // namespace fucina::simt
