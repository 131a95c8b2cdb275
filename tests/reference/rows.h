// What every reference kernel needs: rows of a tensor as fp32, one rounding at the store. Plain on
// purpose; the only concession to speed is fma_row.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/parallel_for.h"
#include "kernels/tensor.h"
#include "kernels/tree_sum.h"

namespace fucina::reference {

// y[i] = fma(a, x[i], y[i]), i < n. One instruction per element where the CPU has FMA.
void fma_row(float a, const float* x, float* y, int64_t n);

// A leaf for each chunk.
inline LeafTree tree_of_chunks(int64_t chunks) {
    std::vector<int64_t> leaves;
    for (int64_t chunk = 0; chunk <= chunks; ++chunk) leaves.push_back(chunk);
    return make_leaf_tree(leaves);
}

inline float round_to(DType type, float x) {
    return type == DType::bf16 ? to_float(to_bfloat16(x)) : x;
}

// `count` elements from column `begin` of row i, as fp32.
inline void load_row(const Tensor& x, int64_t i, int64_t begin, int64_t count, float* out) {
    if (x.dtype() == DType::bf16) {
        const bfloat16* row = x.row<bfloat16>(i) + begin;
        for (int64_t j = 0; j < count; ++j) out[j] = to_float(row[j]);
    } else {
        const float* row = x.row<float>(i) + begin;
        std::copy(row, row + count, out);
    }
}

inline std::vector<float> load_row(const Tensor& x, int64_t i) {
    std::vector<float> row(static_cast<size_t>(x.row_size()));
    load_row(x, i, 0, x.row_size(), row.data());
    return row;
}

inline void store_row(const Tensor& y, int64_t i, int64_t begin, int64_t count, const float* in) {
    if (y.dtype() == DType::bf16) {
        bfloat16* row = y.row<bfloat16>(i) + begin;
        for (int64_t j = 0; j < count; ++j) row[j] = to_bfloat16(in[j]);
    } else {
        std::copy(in, in + count, y.row<float>(i) + begin);
    }
}

inline void store_row(const Tensor& y, int64_t i, const std::vector<float>& in) {
    store_row(y, i, 0, static_cast<int64_t>(in.size()), in.data());
}

}  // namespace fucina::reference
