// RMSNorm on CUDA: the contracts of kernels/norm.h, on device memory, in stream order. Row sums are
// fp32 in a fixed order; dw is summed along the tree exactly as the contract says.
#pragma once
#include "kernels/cuda/stream.h"
#include "kernels/norm.h"
#include "kernels/tensor.h"

namespace fucina::cuda {

void rmsnorm(const Tensor& x, const Tensor& w, float eps, const Tensor& y, const Tensor& rstd,
             Stream stream);

struct AddRmsNorm {
    Tensor x, residual;  // [T, D]
    Tensor sum;          // out [T, D]; may alias x or residual
    Tensor w;            // fp32 [D]
    float eps = 0;
    Tensor y;     // out [T, D]
    Tensor rstd;  // out fp32 [T], or undefined
};
void add_rmsnorm(const AddRmsNorm& io, Stream stream);

// Rows of fp32 [.., D] that rmsnorm_backward needs for partial sums of dw.
int64_t rmsnorm_backward_partials(const LeafTree& tree);
void rmsnorm_backward(const ops::RmsNormBackward& io, const Tensor& partials, Stream stream);

}  // namespace fucina::cuda
