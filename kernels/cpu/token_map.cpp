// Movement of tokens to expert order and back, on the CPU.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {

// A counting sort over (expert, token), grains in parallel: each counts its slots of every expert,
// and then fills them from where the experts and grains before leave off.
TokenMap make_token_map(const Tensor& indices, int64_t experts,
                        std::span<const int64_t> grain_offsets, std::span<const int64_t> room) {
    const int64_t choices = indices.rows() * indices.row_size(), top_k = indices.row_size();
    const auto grains = static_cast<int64_t>(grain_offsets.size()) - 1;
    std::vector<int64_t> next(static_cast<size_t>(grains * experts), 0);  // [grains][experts]
    std::vector<int64_t> ends(next.size());
    const auto each_choice = [&](const auto& body) {
        const int64_t elements = 8 * choices / std::max<int64_t>(grains, 1);  // scattered accesses
        parallel_for(grains, elements, [&](int64_t grain) {
            const auto g = static_cast<size_t>(grain);
            int64_t* const of_expert = next.data() + grain * experts;
            for (int64_t t = grain_offsets[g]; t < grain_offsets[g + 1]; ++t) {
                const int32_t* chosen = indices.row<int32_t>(t);
                for (int64_t j = 0; j < top_k; ++j) {
                    FUCINA_CHECK(chosen[j] >= 0 && chosen[j] < experts, "expert ", chosen[j],
                                 " of ", experts);
                    body(t, t * top_k + j, of_expert[chosen[j]], grain * experts + chosen[j]);
                }
            }
        });
    };
    each_choice([](int64_t, int64_t, int64_t& count, int64_t) { ++count; });
    TokenMap map;
    if (!room.empty()) map.dropped.assign(static_cast<size_t>(experts), 0);
    map.expert_offsets.push_back(0);
    for (int64_t expert = 0; expert < experts; ++expert) {
        std::vector<int64_t> leaves{0};
        for (int64_t grain = 0; grain < grains; ++grain) {
            const auto cell = static_cast<size_t>(grain * experts + expert);
            const int64_t count = next[cell];
            const int64_t taken = room.empty() ? count : std::min(count, room[cell]);
            if (!room.empty()) map.dropped[static_cast<size_t>(expert)] += count - taken;
            next[cell] = map.expert_offsets.back() + leaves.back();
            ends[cell] = next[cell] + taken;
            leaves.push_back(leaves.back() + taken);
        }
        map.expert_offsets.push_back(map.expert_offsets.back() + leaves.back());
        map.trees.push_back(make_leaf_tree(std::move(leaves)));
    }
    const auto slots = static_cast<size_t>(map.expert_offsets.back());
    map.slot_token.resize(slots);
    map.slot_choice.resize(slots);
    map.choice_slot.resize(static_cast<size_t>(choices));
    int32_t *slot_token = map.slot_token.data(), *slot_choice = map.slot_choice.data();
    int32_t* choice_slot = map.choice_slot.data();
    each_choice([=, &ends](int64_t token, int64_t choice, int64_t& slot, int64_t cell) {
        if (slot == ends[static_cast<size_t>(cell)]) {
            choice_slot[choice] = -1;
            return;
        }
        slot_token[slot] = static_cast<int32_t>(token);
        slot_choice[slot] = static_cast<int32_t>(choice);
        choice_slot[choice] = static_cast<int32_t>(slot++);
    });
    return map;
}

void combine(const ops::Combine& io, const TokenMap& map) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    const int64_t tokens = io.out.rows(), width = io.out.row_size();
    const int64_t top_k = tokens == 0 ? 0 : std::ssize(map.choice_slot) / tokens;
    parallel_for(tokens, (top_k + 1) * width, [&](int64_t t) {
        std::byte* const lists =
            scratch(ScratchSlot::rows, top_k * static_cast<int64_t>(sizeof(void*) + sizeof(float)));
        auto* const rows = reinterpret_cast<const void**>(lists);
        auto* const weights = reinterpret_cast<float*>(rows + top_k);
        int64_t count = 0;
        for (int64_t choice = t * top_k; choice < (t + 1) * top_k; ++choice) {
            const int32_t slot = map.choice_slot[static_cast<size_t>(choice)];
            if (slot < 0) continue;
            rows[count] = cells(io.slots, slot).data;
            if (io.weights != nullptr) weights[count] = io.weights[choice];
            ++count;
        }
        kernels.combine({.rows = rows,
                         .weights = io.weights == nullptr ? nullptr : weights,
                         .count = count,
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
