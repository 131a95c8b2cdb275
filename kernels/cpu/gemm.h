// The ops of kernels/gemm.h on CPU; contracts are there.
#pragma once
#include "kernels/gemm.h"

namespace fucina::cpu {

// Panels of 32 columns in one group of a packed weight. A gate_up panel has 16 columns of each
// half.
inline int64_t packed_panels(const PackedWeight& w) {
    return w.gate_up ? (w.n / 2 + 15) / 16 : (w.n + 31) / 32;
}

PackedWeight pack(const Tensor& w, PackKind kind, DType compute, PackedWeight previous);
void grouped_linear(const Tensor& x, const RowGroups& rows, const PackedWeight& w, const Tensor& y);
void gate_up_swiglu(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h);
void down_swiglu_backward(const ops::DownBackward& io);

// dw fp32 [groups, N, K], contiguous.
void grouped_linear_wgrad(const ops::GroupedWgrad& in, const Tensor& dw);

// Rows of one leaf: dw [N, K] (contiguous) is overwritten, or with `more` the leaf's chain goes on
// from it; then the rows before must have been a multiple of 32.
void leaf_wgrad(const Tensor& dy, const Tensor& x, bool more, const Tensor& dw);

}  // namespace fucina::cpu
