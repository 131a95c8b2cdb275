// Movement of tokens to expert order and back, on the CPU.
#include <cstring>

#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {

// A counting sort over (expert, token), which also counts each expert's slots per grain.
TokenMap make_token_map(const Tensor& indices, int64_t experts,
                        std::span<const int64_t> grain_offsets) {
    const int64_t tokens = indices.rows(), top_k = indices.row_size();
    const auto grains = static_cast<int64_t>(grain_offsets.size()) - 1;
    std::vector<std::vector<int64_t>> leaves(
        static_cast<size_t>(experts), std::vector<int64_t>(static_cast<size_t>(grains) + 1, 0));
    for (int64_t grain = 0; grain < grains; ++grain) {
        for (std::vector<int64_t>& ends : leaves)
            ends[static_cast<size_t>(grain) + 1] = ends[static_cast<size_t>(grain)];
        for (int64_t t = grain_offsets[static_cast<size_t>(grain)];
             t < grain_offsets[static_cast<size_t>(grain) + 1]; ++t)
            for (int64_t j = 0; j < top_k; ++j) {
                const int32_t expert = indices.row<int32_t>(t)[j];
                FUCINA_CHECK(expert >= 0 && expert < experts, "expert ", expert, " of ", experts);
                ++leaves[static_cast<size_t>(expert)][static_cast<size_t>(grain) + 1];
            }
    }
    TokenMap map;
    map.expert_offsets.push_back(0);
    for (std::vector<int64_t>& ends : leaves) {
        map.expert_offsets.push_back(map.expert_offsets.back() + ends.back());
        map.trees.push_back(make_leaf_tree(std::move(ends)));
    }
    const auto slots = static_cast<size_t>(tokens * top_k);
    map.slot_token.resize(slots);
    map.slot_choice.resize(slots);
    map.choice_slot.resize(slots);
    std::vector<int64_t> next(map.expert_offsets.begin(), map.expert_offsets.end() - 1);
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t j = 0; j < top_k; ++j) {
            const int64_t slot = next[static_cast<size_t>(indices.row<int32_t>(t)[j])]++;
            map.slot_token[static_cast<size_t>(slot)] = static_cast<int32_t>(t);
            map.slot_choice[static_cast<size_t>(slot)] = static_cast<int32_t>(t * top_k + j);
            map.choice_slot[static_cast<size_t>(t * top_k + j)] = static_cast<int32_t>(slot);
        }
    return map;
}

void combine(const ops::Combine& io, const TokenMap& map) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    const int64_t tokens = io.out.rows(), width = io.out.row_size();
    const int64_t top_k = tokens == 0 ? 0 : map.slots() / tokens;
    parallel_for(tokens, (top_k + 1) * width, [&](int64_t t) {
        auto* rows = reinterpret_cast<const void**>(
            scratch(ScratchSlot::rows, top_k * static_cast<int64_t>(sizeof(void*))));
        for (int64_t j = 0; j < top_k; ++j)
            rows[j] = cells(io.slots, map.choice_slot[static_cast<size_t>(t * top_k + j)]).data;
        kernels.combine({.rows = rows,
                         .weights = io.weights == nullptr ? nullptr : io.weights + t * top_k,
                         .count = top_k,
                         .rows_bf16 = io.slots.dtype() == DType::bf16,
                         .add1 = cells(io.add1, t),
                         .add2 = cells(io.add2, t),
                         .out = cells(io.out, t),
                         .width = width});
    });
}

void permute(const Tensor& x, const TokenMap& map, const Tensor& out) {
    const auto bytes = static_cast<size_t>(x.row_size() * size_of(x.dtype()));
    parallel_for(map.slots(), x.row_size(), [&](int64_t slot) {
        std::memcpy(cells(out, slot).data, cells(x, map.slot_token[static_cast<size_t>(slot)]).data,
                    bytes);
    });
}

}  // namespace fucina::cpu
