// Grouped FP8 matrix product on CUDA: y = x Wᵀ, each expert's rows times its own weight, after
// DeepSeek-V3 (arXiv 2412.19437 §3.3) and DeepGEMM: e4m3 operands, x scaled by 1 x 128, W by
// 128 x 128, the tensor cores' 14-bit sums promoted to fp32 every 128 values of k.
#pragma once
#include "kernels/exec.h"
#include "kernels/quantize.h"

namespace fucina::cuda {

struct GroupedGemmFp8 {
    QuantizedRows x;                   // [rows, K], scales [ceil(K / 128), rows]
    Tensor w;                          // f8_e4m3 [experts · N, K]
    Tensor w_scales;                   // f32 [experts · ceil(N / 128), ceil(K / 128)]
    const int64_t* offsets = nullptr;  // device [experts + 1]: expert e has rows offsets[e] and on
    int64_t experts = 0;
    Tensor y;  // bf16 [rows, N]; rows that no expert has are left as they are
};

// y[r, n] is the bf16 of s, s = fma(p_b, x_scale[b, r] · w_scale[e, n / 128, b], s) over the blocks
// b of 128 k in order, p_b the tensor cores' sum of the block (32 products at a time, in order). K
// is a multiple of 16, N of 8, and x, w, y and their rows and x's rows of scales are aligned to 16
// bytes.
void grouped_gemm_fp8(const Exec& exec, const GroupedGemmFp8& io);

}  // namespace fucina::cuda
