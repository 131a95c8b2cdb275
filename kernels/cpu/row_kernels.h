// The inner loops of norms, RoPE, token movement, casts and AdamW: one row or one range at a time,
// on raw pointers, one table per instruction set. Shapes are checked by the callers.
#pragma once
#include <cstdint>

#include "kernels/cpu/levels.h"

namespace fucina::cpu {

// Elements of a float tensor: bf16, or fp32. Null where there is none.
struct Cells {
    void* data;
    bool bf16;
};

struct NormRow {
    Cells x, residual, sum, y;  // without residual, sum is not written
    const float* w;
    float* rstd;  // or null
    int64_t width;
    float eps;
};

struct NormBackwardRow {
    Cells dy, x, residual_grad, dx;
    const float* w;
    float rstd;
    int64_t width;
};

// Adds dy · round(x · rstd) of tokens [begin, end), in order, to sum[width], for `width` columns
// from dy and x. Strides in elements.
struct NormWeightColumns {
    Cells dy, x;
    int64_t dy_stride, x_stride;
    const float* rstd;
    int64_t begin, end, width;
    float* sum;
};

struct CombineRow {
    const void* const* rows;  // [count] of the dtype of `rows_bf16`
    const float* weights;     // [count] or null for 1
    int64_t count;
    bool rows_bf16;
    Cells add1, add2, out;
    int64_t width;
};

// Rotates the last 2·half columns of each head of one row.
struct RopeRow {
    Cells x;
    int64_t heads, head_dim, half;
    const float *cos, *sin;  // [half]
    bool interleaved, inverse;
};

// Elements of one range; constants of optimizer.h's formula.
struct AdamWRange {
    float* w;
    const float* grad;
    Cells m, v;
    int64_t count;
    float grad_scale, decay, rate, inverse_root, eps, beta1, beta2;
};

struct RowKernels {
    void (*norm)(const NormRow& row);
    void (*norm_backward)(const NormBackwardRow& row);
    void (*norm_weight)(const NormWeightColumns& columns);
    void (*combine)(const CombineRow& row);
    void (*rope)(const RopeRow& row);
    void (*adamw)(const AdamWRange& range);
    void (*cast)(Cells from, Cells to, int64_t count);
    void (*add)(Cells from, float* to, int64_t count);  // to += from
    double (*sum_of_squares)(const float* x, int64_t count);
    void (*sigmoid)(const float* x, float* y, int64_t count);
    // rank[i]: how many of x stand before x[i] when sorted downwards, equal ones by index.
    void (*ranks)(const float* x, int64_t count, int32_t* rank);
};

FUCINA_DECLARE_LEVELS(RowKernels, kRowKernels)

}  // namespace fucina::cpu
