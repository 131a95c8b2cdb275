// H100's tensor-core arithmetic, bit for bit as published: the accumulator and one instruction's
// products are aligned to their largest exponent, cut toward zero there, added exactly, and the sum
// is cut again. Products' exponents are those of their factors added, denormals' as they are.
//   bf16: 16 products, 25 bits below the leading one's place, results of 24 bits;
//   e4m3: 32 products, 13 bits below it, results of 14 bits: hence FP8's promotion every 128.
// Sources: the H100 models of Hawkeye (github.com/badasherez/gpu-simulator) and mmaemu (PyPI).
#pragma once
#include <cstdint>

#include "tests/simt/simt.h"

namespace fucina::simt {

constexpr int kOperandRowBytes = 32;  // of one instruction: 16 values in bf16, 32 in e4m3

// d[i, j] = a[i, :] . b[j, :] + d[i, j] for 64 rows i and n columns j. Rows of a and b are 32 bytes
// and follow each other. Results that are not finite are those of IEEE arithmetic, NaN as 7fffffff.
void tensor_core_multiply(Operand type, int n, const uint8_t* a, const uint8_t* b, float* d);

}  // namespace fucina::simt
