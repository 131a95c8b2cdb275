// Small things between layers.
#pragma once
#include <cstring>
#include <vector>

#include "kernels/moe.h"
#include "kernels/optimizer.h"
#include "kernels/parallel_for.h"
#include "kernels/tensor.h"

namespace fucina {

// out = a + b, summed in fp32 and rounded once; a combine without experts.
inline void add(const Tensor& a, const Tensor& b, const Tensor& out) {
    const Tensor no_slots = Tensor::empty({0, out.dim(1)}, out.dtype());
    ops::combine({.slots = no_slots, .add1 = a, .add2 = b, .out = out}, TokenMap());
}

// out[rows[i]] = x[i]; other rows stay. No row twice.
inline void scatter_rows(const Tensor& x, const std::vector<int32_t>& rows, const Tensor& out) {
    const auto bytes = static_cast<size_t>(x.dim(1) * size_of(x.dtype()));
    parallel_for(x.rows(), x.dim(1), [&](int64_t i) {
        const int64_t row = rows[static_cast<size_t>(i)];
        std::memcpy(out.slice(row, row + 1).raw(), x.slice(i, i + 1).raw(), bytes);
    });
}

inline Tensor in_fp32(const Tensor& x) {
    if (x.dtype() == DType::f32) return x;
    Tensor copy = Tensor::empty(x.shape(), DType::f32);
    ops::cast(x, copy);
    return copy;
}

}  // namespace fucina
