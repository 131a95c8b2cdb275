// Small things between layers.
#pragma once
#include "kernels/moe.h"
#include "kernels/optimizer.h"
#include "kernels/tensor.h"

namespace fucina {

// out = a + b, summed in fp32 and rounded once; a combine without experts.
inline void add(const Tensor& a, const Tensor& b, const Tensor& out) {
    const Tensor no_slots = Tensor::empty({0, out.dim(1)}, out.dtype());
    ops::combine({.slots = no_slots, .add1 = a, .add2 = b, .out = out}, TokenMap());
}

inline Tensor in_fp32(const Tensor& x) {
    if (x.dtype() == DType::f32) return x;
    Tensor copy = Tensor::empty(x.shape(), DType::f32);
    ops::cast(x, copy);
    return copy;
}

}  // namespace fucina
