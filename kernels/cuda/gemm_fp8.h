// Grouped FP8 matrix product on CUDA: y = x Wᵀ, each expert's rows times its own weight, after
// DeepSeek-V3 (arXiv 2412.19437 §3.3) and DeepGEMM: e4m3 operands, x scaled by 1 x 128, W by
// 128 x 128, the tensor cores' 14-bit sums promoted to fp32 every 128 values of k.
#pragma once
#include "kernels/cuda/quantize.h"
#include "kernels/gemm.h"
#include "kernels/quantize.h"

namespace fucina::cuda {

struct GroupedGemmFp8 {
    QuantizedRows x;  // [rows, K], scales [ceil(K / 128), rows]
    Tensor w;         // f8_e4m3 [experts · N, K]
    Tensor w_scales;  // f32 [experts · ceil(N / 128), ceil(K / 128)]
    // Device [experts + 1]: expert e has rows offsets[e] and on; null: the only one has all.
    const int64_t* offsets = nullptr;
    int64_t experts = 0;
    Tensor y;  // bf16 or f32 [rows, N]; rows that no expert has are left as they are
    // Of K's chunks (kernels/k_cut.h), which are whole blocks of 128, the one to sum.
    KCut cut = {};
    int64_t chunk = 0;
};

// y[r, n] is s, rounded to its type, s = fma(p_b, x_scale[b, r] · w_scale[e, n / 128, b], s) over
// the blocks b of 128 k in order, p_b the tensor cores' sum of the block (32 products at a time, in
// order). x, w and their rows and x's rows of scales are aligned to 16 bytes.
void grouped_gemm_fp8(const Exec& exec, const GroupedGemmFp8& io);

// dw [groups, N, K] fp32 = dyᵀ x of one leaf of each group: s as above, with dy_scale[b, n] ·
// x_scale[b, k] and the blocks of a group's tokens.
struct GroupedWgradFp8 {
    QuantizedRows dy, x;  // of quantize_tokens, [N or K, tokens]
    const TokenBlocks& blocks;
    Tensor dw;
};
void grouped_wgrad_fp8(const Exec& exec, const GroupedWgradFp8& io);

// The ops of kernels/gemm.h for an FP8 weight, on bf16: quantised, then multiplied.
PackedWeight pack_fp8(const Exec& exec, const Tensor& w, PackKind kind, PackedWeight packed);
void product_fp8(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                 const Tensor& y);
void linear_wgrad_fp8(const Exec& exec, const Tensor& dy, const Tensor& x, const LeafTree& tree,
                      const Tensor& dw);
void grouped_linear_wgrad_fp8(const Exec& exec, const ops::GroupedWgrad& in, const Tensor& dw);

}  // namespace fucina::cuda
