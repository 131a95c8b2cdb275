// The gradient of the token embedding on CUDA: the contract and the bits of ops::embedding_backward
// (but for denormal sums, which the CPU makes zero), on device memory, in stream order.
#pragma once
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"

namespace fucina::cuda {

struct EmbeddingBackward {
    Tensor ids;           // i32 [T]; those outside [0, V) are another rank's
    Tensor d_out;         // [T, D], bf16 or fp32
    Tensor leaf_offsets;  // i64 [leaves + 1] rows, of make_leaf_tree (kernels/leaf_tree.h)
    Tensor scratch;       // i32 [4, T]
    Tensor d_table;       // out fp32 [V, D]
};
void embedding_backward(const EmbeddingBackward& io, Stream stream);

}  // namespace fucina::cuda
