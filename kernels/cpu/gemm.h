// The ops of kernels/gemm.h on CPU; contracts are there.
#pragma once
#include <functional>

#include "kernels/packed_copies.h"
#include "kernels/runtime.h"

namespace fucina::cpu {

// The tree, or under fast numerics, which may choose, one leaf of all rows.
inline LeafTree summation_tree(const LeafTree& tree) {
    return runtime().numerics == Numerics::fast ? make_leaf_tree({0, tree.rows()}) : tree;
}

// Panels of 32 columns in one group of a packed weight. A gate_up panel has 16 columns of each
// half.
inline int64_t packed_panels(const PackedWeight& w) {
    return w.gate_up ? (w.n / 2 + 15) / 16 : (w.n + 31) / 32;
}

PackedWeight pack(const Tensor& w, PackKind kind, DType compute, PackedWeight previous);

// Remakes the copies while update(begin, end), called for every element once, changes w.
void repack(const Tensor& w, PackedCopies& copies,
            const std::function<void(int64_t begin, int64_t end)>& update);

void grouped_linear(const Tensor& x, const RowGroups& rows, const PackedWeight& w, const Tensor& y);
void gate_up_swiglu(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h);
void down_swiglu_backward(const ops::DownBackward& io);

// dw fp32 [N, K], or [groups, N, K], contiguous.
void linear_wgrad(const Tensor& dy, const Tensor& x, const LeafTree& tree, const Tensor& dw,
                  bool fp8 = false);
void grouped_linear_wgrad(const ops::GroupedWgrad& in, const Tensor& dw);

ops::WgradScratch linear_wgrad_scratch(const LeafTree& tree, int64_t n, int64_t k, DType type);

// Rows of one leaf: dw [N, K] (contiguous) is overwritten, or with `more` the leaf's chain goes on
// from it; then the rows before must have been a multiple of 32.
void leaf_wgrad(const Tensor& dy, const Tensor& x, bool more, const Tensor& dw);

}  // namespace fucina::cpu
