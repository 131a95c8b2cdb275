// y = x Wᵀ in bf16 on Hopper's tensor cores, for fast numerics: sums of fp32 in the tensor cores'
// order, all of K as one.
#pragma once
#include "kernels/gemm.h"

namespace fucina::cuda {

struct WgmmaProduct {
    Tensor x;  // as ops::grouped_linear and, for a gate_up weight, ops::gate_up_swiglu
    RowGroups rows;
    PackedWeight w;
    Tensor y;       // [S, n], bf16 or f32; of a gate_up weight gate | up, or undefined
    Tensor h = {};  // of a gate_up weight
};
// Whether numerics are fast, and TMA can read x and W and pairs of columns be stored. If so, it is
// done.
bool wgmma_product(const Exec& exec, const WgmmaProduct& io);

}  // namespace fucina::cuda
