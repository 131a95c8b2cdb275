// What this machine can do in this very moment, as kernels see it: the measure that shares of peak
// are shares of. On shared machines it changes from minute to minute, so measure next to the use.
#pragma once
#include "kernels/dtype.h"

namespace fucina {

struct MachinePeak {
    double flops = 0;  // per second: the block kernel of matrix products, operands in L1
    double bytes = 0;  // per second: a copy of memory, read plus written
};

// On all threads of runtime(), at its instruction-set level. operands: bf16 or f32. In the threads'
// CPU time, about 2 · seconds each: other programs' turns on the cores do not count.
MachinePeak calibrate(DType operands, double seconds = 0.02);

}  // namespace fucina
