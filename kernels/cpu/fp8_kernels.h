// FP8 operands on CPU: E4M3 values held as bf16, which has them all, in the layouts of bf16
// products; the sums of 128 products that any kernel makes of them are promoted here.
#pragma once
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/levels.h"

namespace fucina::cpu {

constexpr int64_t kFp8Block = 128;  // of k

struct Fp8Kernels {
    // values[i] = E4M3(x[i] / scale) for n <= kFp8Block neighbours along k; returns the scale, NaN
    // if one of them is not finite.
    float (*quantize_row)(const uint16_t* x, int64_t n, uint16_t* values);
    // The same of columns: values [kFp8Block][32], zeros beyond; scales [32]. in.k <= kFp8Block.
    void (*quantize_tokens)(const TokenColumns& in, uint16_t* values, float* scales);
    // max|x|, and x = E4M3(x · inverse), of a weight's row.
    float (*largest)(const float* x, int64_t n);
    void (*round)(const float* x, int64_t n, float inverse, float* values);
    // sum[i][j] = fma(rows[i] · columns[j], part[i][j], more ? sum[i][j] : 0), blocks of 32 x 32.
    void (*promote)(const float* part, const float* rows, const float* columns, int count,
                    bool more, float* sum);
};

FUCINA_DECLARE_LEVELS(Fp8Kernels, kFp8Kernels)
FUCINA_DECLARE_LEVELS(GemmKernel, kTensorCoreKernel)  // the sums of kernels/tensor_core.h

}  // namespace fucina::cpu
