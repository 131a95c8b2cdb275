// PackedCopies: what a back end keeps of a weight for its products, beside the fp32 master: panels
// of the compute type, in the order that each product reads them.
#pragma once
#include "kernels/gemm.h"

namespace fucina {

struct PackedCopies {
    PackKind kind = PackKind::forward;  // of forward; gate_up: the weight is a fused [gate; up]
    bool fp32 = false;                  // the products are fp32 in every precision (the router)
    bool fp8 = false;                   // they are FP8 in place of bf16
    PackedWeight forward, dgrad;        // dgrad where a backward pass follows

    bool defined() const { return forward.defined(); }
    // Of the products where the model computes in `compute`.
    DType products(DType compute) const {
        return fp32 ? DType::f32 : fp8 && compute == DType::bf16 ? DType::f8_e4m3 : compute;
    }
    int64_t bytes() const;
    // Of the weight's shape, as products take it: [2, F, K] and [E, 2, F, K] with their gate and up
    // rows as those of one matrix. Undefined if x is.
    Tensor as_matrix(const Tensor& x) const;
    // Makes the copies from w, fp32 of the weight's shape, in storage that there is.
    void pack(const Exec& exec, const Tensor& w, DType compute, bool with_dgrad);
    // Makes those again that there are.
    void repack(const Exec& exec, const Tensor& w);
    // Gives their memory back; how they are cut is kept.
    void release() { forward.storage = forward.scales = dgrad.storage = dgrad.scales = {}; }
};

}  // namespace fucina
