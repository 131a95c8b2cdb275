// The ops of kernels/gemm.h on CUDA, with the bits of the CPU's order `fma` (denormals apart, which
// the CPU makes zero), on device memory, in stream order. A packed weight is row-major, [groups, n,
// k] of the compute type, so that every product reads both operands along k.
#pragma once
#include "kernels/gemm.h"

namespace fucina::cuda {

PackedWeight pack(const Exec& exec, const Tensor& w, PackKind kind, DType compute,
                  PackedWeight previous);

void grouped_linear(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& y);
void gate_up_swiglu(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h);
void down_swiglu_backward(const Exec& exec, const ops::DownBackward& io);

void linear_wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, const LeafTree& tree,
                  const Tensor& dw, bool fp8 = false);
void grouped_linear_wgrad(const Exec& exec, const ops::GroupedWgrad& in, const Tensor& dw);
// Rows of one leaf: dw [N, K] is overwritten, or with `more` the leaf's chain goes on from it.
void leaf_wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, bool more, const Tensor& dw);

}  // namespace fucina::cuda
