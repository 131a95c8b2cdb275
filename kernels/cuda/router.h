// The router of a mixture-of-experts layer on CUDA: the contracts of kernels/moe.h, on device
// memory, in stream order. Sums have the reference's order; expf is CUDA's, within two steps of the
// host's, so that scores, and choices between scores that are nearly equal, may differ from the
// CPU's.
#pragma once
#include "kernels/moe.h"

namespace fucina::cuda {

void router(const Exec& exec, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights);
void router_backward(const Exec& exec, const RouterConfig& config, const Tensor& scores,
                     const Tensor& indices, const Tensor& d_weights, const Tensor& d_scores,
                     const Tensor& d_logits);
ExactSum balance_loss(const Exec& exec, const RouterConfig& config, const Tensor& scores,
                      const Tensor& indices, const Tensor& sequence_offsets, float scale,
                      const Tensor& d_scores);

}  // namespace fucina::cuda
