// Routing and movement of tokens in a mixture-of-experts layer.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/exact_sum.h"
#include "kernels/exec.h"
#include "kernels/gemm.h"

namespace fucina {

// DeepSeek-V3's router (arXiv 2412.19437 §2.1.2): s = sigmoid(logits), c = s + bias chooses; a
// group's score is the sum of its two largest c; the best topk_group groups are kept, others masked
// with -inf; the top k of c are taken, ties to the lowest index; weights are s of the chosen,
// divided by (their sum + 1e-20) if normalize, times scale.
struct RouterConfig {
    int64_t experts = 0, top_k = 0, groups = 1, topk_groups = 1;
    bool normalize = true;
    float scale = 1;
};

// A configuration that no layer should have made is our own defect.
void check_router(const RouterConfig& config);
void check_matrix(const Tensor& x, int64_t rows, int64_t columns, DType type);
void check_addend(const Tensor& x, const Tensor& out);  // x: rows like out's, or undefined

// Where each (token, choice) pair goes. Slots are ordered by expert, then by token.
struct TokenMap {
    Tensor expert_offsets;  // i64 [E + 1] slots
    Tensor leaves;          // i64 [E, grains + 1] slots, of an expert those of each grain
    Tensor slot_token;      // i32 [slots], T*k of them but for what is dropped
    Tensor slot_choice;     // i32 [slots] flat (token, choice) index token * k + choice
    Tensor choice_slot;     // i32 [T*k] inverse of slot_choice; -1: dropped
    Tensor dropped;         // i64 [E] choices; undefined: none of any
    int64_t slots() const { return slot_token.rows(); }
    RowGroups groups(bool through_index) const {
        return {slots(), expert_offsets, through_index ? slot_token : Tensor()};
    }
};

namespace ops {

// logits fp32 [T, E], bias fp32 [E] or undefined; scores fp32 [T, E] = s (kept for backward),
// indices i32 [T, k] in ascending expert id, weights fp32 [T, k].
void router(const Exec& exec, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights);

// d_weights fp32 [T, k] -> d_logits fp32 [T, E], overwritten. d_scores fp32 [T, E] (of the balance
// loss) is added to the scores' gradient if defined.
void router_backward(const Exec& exec, const RouterConfig& config, const Tensor& scores,
                     const Tensor& indices, const Tensor& weights, const Tensor& d_weights,
                     const Tensor& d_scores, const Tensor& d_logits);

// DeepSeek-V3's sequence-wise balance loss (§2.1.2, eq. 17-20) over sequences given by offsets, i64
// [sequences + 1]: per sequence sum_i f_i P_i, f_i = E/(k T) · count, P_i = mean over tokens of s_i
// / sum_j s_j; result: the sum over sequences, each fp64, P_i to 2^-40 a token. d_scores [T, E] (if
// defined) receives scale times its derivative.
ExactSum balance_loss(const Exec& exec, const RouterConfig& config, const Tensor& scores,
                      const Tensor& indices, const Tensor& sequence_offsets, float scale,
                      const Tensor& d_scores);

// bias fp32 [E] += rate · sign(mean load - load), of loads [E]: balancing without an auxiliary loss
// (§2.1.2).
void update_router_bias(const Exec& exec, std::span<const int64_t> loads, float rate,
                        const Tensor& bias);

// indices i32 [T, k]; grain_offsets i64 [grains + 1] token rows. room i64 [grains, E]: so many
// tokens of a grain an expert takes, in the order of tokens, the others are dropped; undefined: no
// limit.
TokenMap make_token_map(const Exec& exec, const Tensor& indices, int64_t experts,
                        const Tensor& grain_offsets, const Tensor& room = {});

// out i64 [grains, E]: choices of each expert in each grain.
void count_choices(const Exec& exec, const Tensor& indices, const Tensor& grain_offsets,
                   const Tensor& out);

struct Combine {
    Tensor slots;       // [slots, D] expert outputs in slot order
    Tensor weights;     // fp32 [T, k], or undefined for 1
    Tensor add1, add2;  // [T, D] more addends (any float dtype), added after the slots in this
                        // order; may be undefined
    Tensor out;         // [T, D]
};
// out[t] = sum over t's choices that are not dropped, in ascending expert id, of weight ·
// slots[slot], + add1 + add2; fp32, rounded once.
void combine(const Exec& exec, const Combine& io, const TokenMap& map);

// out = a + b, summed in fp32 and rounded once.
void add(const Exec& exec, const Tensor& a, const Tensor& b, const Tensor& out);

// out[i] = x[index[i]], rows of any type; index i32. (What dispatch does on one rank.)
void gather_rows(const Exec& exec, const Tensor& x, const Tensor& index, const Tensor& out);
// out[index[i]] = x[i]; other rows stay. No row twice.
void scatter_rows(const Exec& exec, const Tensor& x, const Tensor& index, const Tensor& out);

}  // namespace ops
}  // namespace fucina
