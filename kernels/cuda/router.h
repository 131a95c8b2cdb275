// The router of a mixture-of-experts layer on CUDA: the contracts of kernels/moe.h, on device
// memory, in stream order. Sums have the reference's order; expf is CUDA's, within two steps of the
// host's, so that scores, and choices between scores that are nearly equal, may differ from the
// CPU's.
#pragma once
#include "kernels/cuda/stream.h"
#include "kernels/moe.h"

namespace fucina::cuda {

struct Router {
    RouterConfig config;
    Tensor logits;   // fp32 [T, E]
    Tensor bias;     // fp32 [E], or undefined
    Tensor scores;   // out fp32 [T, E]
    Tensor indices;  // out i32 [T, k]
    Tensor weights;  // out fp32 [T, k]
};
void router(const Router& io, Stream stream);

struct RouterBackward {
    RouterConfig config;
    Tensor scores;     // fp32 [T, E], saved by forward
    Tensor indices;    // i32 [T, k]
    Tensor d_weights;  // fp32 [T, k]
    Tensor d_scores;   // fp32 [T, E], or undefined
    Tensor d_logits;   // out fp32 [T, E]
};
void router_backward(const RouterBackward& io, Stream stream);

}  // namespace fucina::cuda
