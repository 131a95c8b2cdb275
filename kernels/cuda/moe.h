// Movement of tokens in a mixture-of-experts layer on CUDA: the contracts and the bits of
// kernels/moe.h, on device memory, in stream order. The host waits only for how many slots a map
// has where choices may be dropped. Expert ids must lie in [0, E); they are not checked.
#pragma once
#include "kernels/moe.h"

namespace fucina::cuda {

void count_choices(const Exec& exec, const Tensor& indices, const Tensor& grain_offsets,
                   const Tensor& out);
TokenMap make_token_map(const Exec& exec, const Tensor& indices, int64_t experts,
                        const Tensor& grain_offsets, const Tensor& room);
void update_router_bias(const Exec& exec, std::span<const int64_t> loads, float rate,
                        const Tensor& bias);
void combine(const Exec& exec, const ops::Combine& io, const TokenMap& map);
void add(const Exec& exec, const Tensor& a, const Tensor& b, const Tensor& out);
void gather_rows(const Exec& exec, const Tensor& x, const Tensor& index, const Tensor& out);
void scatter_rows(const Exec& exec, const Tensor& x, const Tensor& index, const Tensor& out);

}  // namespace fucina::cuda
