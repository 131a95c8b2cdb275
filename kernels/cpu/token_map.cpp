// Movement of tokens to expert order and back, on the CPU.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

// body(token, choice, expert) for every choice of grain g's tokens.
template <class Body>
void for_each_choice(const Tensor& indices, const Tensor& grain_offsets, int64_t g, int64_t experts,
                     const Body& body) {
    const int64_t* const bounds = grain_offsets.data<int64_t>() + g;
    const int64_t top_k = indices.row_size();
    FUCINA_CHECK(bounds[1] <= indices.rows(), "a grain ends at row ", bounds[1], " of ",
                 indices.rows());
    for (int64_t t = bounds[0]; t < bounds[1]; ++t) {
        const int32_t* const chosen = indices.row<int32_t>(t);
        for (int64_t j = 0; j < top_k; ++j) {
            FUCINA_CHECK(chosen[j] >= 0 && chosen[j] < experts, "expert ", chosen[j], " of ",
                         experts);
            body(t, t * top_k + j, chosen[j]);
        }
    }
}

// The width of router weights, where a call of memcpy would cost more than the copy.
void copy_row(void* to, const void* from, size_t bytes) {
    if (bytes == 4)
        std::memcpy(to, from, 4);
    else
        std::memcpy(to, from, bytes);
}

int64_t work_of_grain(const Tensor& indices, int64_t grains) {
    return 8 * indices.size() / std::max<int64_t>(grains, 1);  // scattered accesses
}

}  // namespace

void count_choices(const Tensor& indices, const Tensor& grain_offsets, const Tensor& out) {
    out.zero();
    parallel_for(out.rows(), work_of_grain(indices, out.rows()), [&](int64_t grain) {
        int64_t* const counts = out.row<int64_t>(grain);
        for_each_choice(indices, grain_offsets, grain, out.row_size(),
                        [&](int64_t, int64_t, int32_t expert) { ++counts[expert]; });
    });
}

// A counting sort over (expert, token), grains in parallel: each counts its slots of every expert,
// and then fills them from where the experts and grains before leave off.
TokenMap make_token_map(const Tensor& indices, int64_t experts, const Tensor& grain_offsets,
                        const Tensor& room) {
    const int64_t choices = indices.size(), grains = grain_offsets.rows() - 1;
    // Of each grain and expert: its choices, then the slot of the next.
    const Tensor next = Tensor::empty({grains, experts}, DType::i64);
    count_choices(indices, grain_offsets, next);
    TokenMap map{.expert_offsets = Tensor::zeros({experts + 1}, DType::i64),
                 .leaves = Tensor::empty({experts, grains + 1}, DType::i64),
                 .dropped = room.defined() ? Tensor::zeros({experts}, DType::i64) : Tensor()};
    int64_t slots = 0;
    for (int64_t expert = 0; expert < experts; ++expert) {
        int64_t* const leaves = map.leaves.row<int64_t>(expert);
        for (int64_t grain = 0; grain < grains; ++grain) {
            int64_t& cell = next.row<int64_t>(grain)[expert];
            const int64_t taken =
                room.defined() ? std::min(cell, room.row<int64_t>(grain)[expert]) : cell;
            if (room.defined()) map.dropped.data<int64_t>()[expert] += cell - taken;
            leaves[grain] = cell = slots;
            slots += taken;
        }
        map.expert_offsets.data<int64_t>()[expert + 1] = leaves[grains] = slots;
    }
    map.slot_token = Tensor::empty({slots}, DType::i32);
    map.slot_choice = Tensor::empty({slots}, DType::i32);
    map.choice_slot = Tensor::empty({choices}, DType::i32);
    int32_t* const slot_token = map.slot_token.data<int32_t>();
    int32_t* const slot_choice = map.slot_choice.data<int32_t>();
    int32_t* const choice_slot = map.choice_slot.data<int32_t>();
    parallel_for(grains, work_of_grain(indices, grains), [&](int64_t grain) {
        int64_t* const next_slots = next.row<int64_t>(grain);
        for_each_choice(indices, grain_offsets, grain, experts,
                        [&](int64_t token, int64_t choice, int32_t expert) {
                            int64_t& slot = next_slots[expert];
                            if (slot == map.leaves.row<int64_t>(expert)[grain + 1]) {
                                choice_slot[choice] = -1;
                                return;
                            }
                            slot_token[slot] = static_cast<int32_t>(token);
                            slot_choice[slot] = static_cast<int32_t>(choice);
                            choice_slot[choice] = static_cast<int32_t>(slot++);
                        });
    });
    return map;
}

void combine(const ops::Combine& io, const TokenMap& map) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    const int64_t tokens = io.out.rows(), width = io.out.row_size();
    const int64_t top_k = tokens == 0 ? 0 : map.choice_slot.size() / tokens;
    const int32_t* const choice_slot = map.choice_slot.data<int32_t>();
    const float* const weight_of = io.weights.data_or_null<float>();
    parallel_for(tokens, (top_k + 1) * width, [&](int64_t t) {
        std::byte* const lists =
            scratch(ScratchSlot::rows, top_k * static_cast<int64_t>(sizeof(void*) + sizeof(float)));
        auto* const rows = reinterpret_cast<const void**>(lists);
        auto* const weights = reinterpret_cast<float*>(rows + top_k);
        int64_t count = 0;
        for (int64_t choice = t * top_k; choice < (t + 1) * top_k; ++choice) {
            if (choice_slot[choice] < 0) continue;
            rows[count] = cells(io.slots, choice_slot[choice]).data;
            if (weight_of != nullptr) weights[count] = weight_of[choice];
            ++count;
        }
        kernels.combine({.rows = rows,
                         .weights = weight_of == nullptr ? nullptr : weights,
                         .count = count,
                         .rows_bf16 = io.slots.dtype() == DType::bf16,
                         .add1 = cells(io.add1, t),
                         .add2 = cells(io.add2, t),
                         .out = cells(io.out, t),
                         .width = width});
    });
}

void add(const Tensor& a, const Tensor& b, const Tensor& out) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    parallel_for(out.rows(), out.row_size(), [&](int64_t i) {
        kernels.combine({.add1 = cells(a, i),
                         .add2 = cells(b, i),
                         .out = cells(out, i),
                         .width = out.row_size()});
    });
}

void gather_rows(const Tensor& x, const Tensor& index, const Tensor& out) {
    const auto bytes = static_cast<size_t>(x.row_size() * size_of(x.dtype()));
    const int32_t* const from = index.data<int32_t>();
    parallel_for(out.rows(), x.row_size(),
                 [&](int64_t i) { copy_row(cells(out, i).data, cells(x, from[i]).data, bytes); });
}

void scatter_rows(const Tensor& x, const Tensor& index, const Tensor& out) {
    const auto bytes = static_cast<size_t>(x.row_size() * size_of(x.dtype()));
    const int32_t* const to = index.data<int32_t>();
    parallel_for(x.rows(), x.row_size(),
                 [&](int64_t i) { copy_row(cells(out, to[i]).data, cells(x, i).data, bytes); });
}

}  // namespace fucina::cpu
