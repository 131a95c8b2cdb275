// SwiGLU (Shazeer 2020) on CUDA: h = silu(gate) · up, elementwise, where a GEMM library computes
// gate | up. fp32 inside, rounded once to the tensors' dtype, bf16 or f32.
#pragma once
#include "kernels/tensor.h"

namespace fucina::cuda {

// gate_up [S, 2F], h [S, F] of one dtype.
void swiglu(const Exec& exec, const Tensor& gate_up, const Tensor& h);

struct SwigluBackward {
    Tensor dh;                          // [S, F] gradient of the row's unweighted h, or fp32
    Tensor gate_up;                     // [S, 2F] saved by forward
    const float* row_weight = nullptr;  // [S] router weight of the row, or null for 1
    Tensor d_gate_up;                   // out [S, 2F]
    Tensor weighted_h;                  // out [S, F] = row_weight · h, or undefined
    float* d_row_weight = nullptr;      // out [S] = dh · h, or null
    const int64_t* rows_end = nullptr;  // on the device: rows from there on are left as they are
};
// dh · row_weight goes through SwiGLU, as in ops::down_swiglu_backward (kernels/gemm.h).
void swiglu_backward(const Exec& exec, const SwigluBackward& io);

}  // namespace fucina::cuda
