// FP8 quantisation on CUDA: the contract of kernels/quantize.h, on device memory, in stream order.
// x is read once for both outputs.
#pragma once
#include "kernels/exec.h"
#include "kernels/quantize.h"

namespace fucina::cuda {

// x's rows may be taken through an index, i32. Values and their rows are aligned to 16 bytes; what
// is beyond a row's end, up to there, is written too.
void quantize(const Exec& exec, const Quantize& io, const Tensor& index = {});

// Columns in blocks of 128 tokens that begin where a group does.
struct TokenBlocks;
void quantize_tokens(const Exec& exec, const Tensor& x, const Tensor& index,
                     const TokenBlocks& blocks, const QuantizedRows& columns);

}  // namespace fucina::cuda
