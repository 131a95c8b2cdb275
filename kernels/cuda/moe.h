// Movement of tokens in a mixture-of-experts layer on CUDA: the contracts and the bits of
// kernels/moe.h, on device memory, in stream order. The host learns no count: maps have the size
// that they have when nothing is dropped. Expert ids must lie in [0, E); they are not checked.
#pragma once
#include "kernels/cuda/stream.h"
#include "kernels/moe.h"

namespace fucina::cuda {

// out i64 [grains, E]; indices contiguous.
void count_choices(const Tensor& indices, const Tensor& grain_offsets, const Tensor& out,
                   Stream stream);

struct MakeTokenMap {
    Tensor indices;        // i32 [T, k], contiguous
    Tensor grain_offsets;  // i64 [grains + 1]
    Tensor room;           // i64 [grains, E], or undefined for no limit
    Tensor counts;         // out i64 [grains, E]: choices, those that are dropped too
    // out, contiguous: slot_token, slot_choice and choice_slot are [T*k], and -1 in the slots from
    // expert_offsets[E] on; dropped is undefined without room.
    TokenMap map;
};
void make_token_map(const MakeTokenMap& io, Stream stream);

// bias fp32 [E], loads i64 [E], both contiguous.
void update_router_bias(const Tensor& loads, float rate, const Tensor& bias, Stream stream);

// choice_slot i32 [T*k], of a TokenMap.
void combine(const ops::Combine& io, const Tensor& choice_slot, Stream stream);

// a + b: out, bf16 or fp32 each.
void add(const Tensor& a, const Tensor& b, const Tensor& out, Stream stream);

// As in ops::; rows whose index is negative are left out.
void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out, Stream stream);
void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& out, Stream stream);

}  // namespace fucina::cuda
