// Rows that are converted, added or looked up, on CUDA: the contracts and the bits of ops:: (but
// for denormal sums, which the CPU makes zero), on device memory, in stream order.
#pragma once
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"

namespace fucina::cuda {

// out = x in out's dtype, bf16 or fp32.
void cast(const Tensor& x, const Tensor& out, Stream stream);

// y += x; y fp32, x bf16 or fp32.
void add_in_place(const Tensor& y, const Tensor& x, Stream stream);

// out [T, D] = rows `ids`, i32 [T], of table, fp32 [V, D]. Ids must lie in [0, V); they are not
// checked.
void embedding(const Tensor& ids, const Tensor& table, const Tensor& out, Stream stream);

}  // namespace fucina::cuda
