// Products in bf16 on Hopper's tensor cores, for fast numerics: sums of fp32 in the tensor cores'
// order, all of K, or of a group's rows, as one. Each says whether it could: where numerics are
// exact, or TMA cannot read an operand or pairs of columns be stored, nothing is done.
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
bool wgmma_product(const Exec& exec, const WgmmaProduct& io);

struct WgmmaWgrad {
    ops::GroupedWgrad in;  // without leaves all rows are one group
    bool more = false;     // is added to dw
    Tensor dw;             // fp32 [groups, N, K]
};
bool wgmma_wgrad(const Exec& exec, const WgmmaWgrad& io);

}  // namespace fucina::cuda
