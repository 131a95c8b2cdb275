// What this machine can do in this very moment: the measure that shares of peak are shares of. On
// shared machines it changes from minute to minute, so measure next to the use.
#pragma once
#include "kernels/dtype.h"

namespace fucina {

// Operations a second of all threads of runtime() together, in registers: of the instruction that
// matrix products of these operands (bf16 or f32) are made of at its level, numerics and order.
// In the threads' CPU time, about `seconds` each: other programs' turns on the cores do not count.
double peak_flops(DType operands, double seconds = 0.002);

// Bytes a second, read plus written, of copies of memory by all threads together.
double copy_bandwidth(double seconds = 0.02);

}  // namespace fucina
