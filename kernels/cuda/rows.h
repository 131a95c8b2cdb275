// Rows that are converted, added or looked up, on CUDA: the contracts and the bits of ops:: (but
// for denormal sums, which the CPU makes zero), on device memory, in stream order.
#pragma once
#include "kernels/exec.h"

namespace fucina::cuda {

// out = x in out's dtype, bf16 or fp32.
void cast(const Exec& exec, const Tensor& x, const Tensor& out);

// y += x; y fp32, x bf16 or fp32.
void add_in_place(const Exec& exec, const Tensor& y, const Tensor& x);

// out [T, D] = rows `ids`, i32 [T], of table, fp32 [V, D]. Ids must lie in [0, V); they are not
// checked.
void embedding(const Exec& exec, const Tensor& ids, const Tensor& table, const Tensor& out);

}  // namespace fucina::cuda
