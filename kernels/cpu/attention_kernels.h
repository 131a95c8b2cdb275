// The row-wise inner kernels of attention between its matrix products, one table per instruction
// set and operand type. Blocks are those of gemm_kernels.h: 32 x 32 fp32 outputs, and a strip of
// scores of 32 queries is consecutive blocks of 32 keys.
#pragma once
#include <cstdint>

#include "kernels/cpu/levels.h"

namespace fucina::cpu {

// One strip of scores, turned into probabilities.
struct SoftmaxStrip {
    const float* scores;  // [keys/32][32][32]
    int64_t keys;         // a multiple of 32
    int64_t visible;      // keys that row 0 may see; row r sees visible + r
    int rows;
    float scale;
    float* largest;  // [32] running maximum of the scaled scores
    float* lanes;    // [32][16] running sums of exponentials
    float* shrink;   // [32] out: by how much earlier sums are to be multiplied
    void* p;         // out: [32][keys] of the operand type, 0 where nothing is to be seen
};

struct SoftmaxGradient {
    const float* scores;       // [32][32] block
    const float* d_p;          // [32][32] block
    const float *lse, *delta;  // [rows]
    int64_t visible;           // as above
    int rows;
    float scale;
    void *p, *d_s;  // out: 32 rows of 32 of the operand type
    int64_t p_stride, d_s_stride;
};

struct RowScale {
    float* c;  // [blocks][32][32]
    int64_t blocks;
    int rows;
    const float* factor;  // [rows]
};

struct RowDots {
    const void *a, *b;
    int64_t a_stride, b_stride, columns;
    int rows;
    float* out;  // [rows]
};

struct AttentionKernels {
    void (*softmax)(const SoftmaxStrip& strip);
    // largest and lanes become the log-sum-exp and the reciprocal of the sum.
    void (*finish)(const float* largest, const float* lanes, int rows, float* lse, float* inverse);
    void (*scale_rows)(const RowScale& scale);
    void (*softmax_gradient)(const SoftmaxGradient& in);
    void (*row_dots)(const RowDots& in);
};

FUCINA_DECLARE_LEVELS(AttentionKernels, kBf16Attention)
FUCINA_DECLARE_LEVELS(AttentionKernels, kFp32Attention)

}  // namespace fucina::cpu
