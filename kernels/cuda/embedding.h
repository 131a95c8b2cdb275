// The embedding on CUDA: the contracts of kernels/embedding.h, on device memory, in stream order.
#pragma once
#include "kernels/embedding.h"

namespace fucina::cuda {

void embedding(const Exec& exec, const Tensor& ids, const Tensor& table, const Tensor& out);
void embedding_backward(const Exec& exec, const Tensor& ids, const Tensor& d_out,
                        const LeafTree& tree, const Tensor& d_table);

}  // namespace fucina::cuda
