// Routing and movement of tokens in a mixture-of-experts layer.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/exact_sum.h"
#include "kernels/gemm.h"
#include "kernels/tensor.h"

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

// Where each (token, choice) pair goes. Slots are ordered by expert, then by token.
struct TokenMap {
    std::vector<int64_t> expert_offsets;  // [E + 1] slots
    std::vector<int32_t> slot_token;      // [slots], T*k of them but for what is dropped
    std::vector<int32_t> slot_choice;     // [slots] flat (token, choice) index token * k + choice
    std::vector<int32_t> choice_slot;     // [T*k] inverse of slot_choice; -1: dropped
    std::vector<int64_t> dropped;         // [E] choices; empty: none of any
    std::vector<LeafTree> trees;          // [E] leaves of the grains within each expert's slots
    int64_t slots() const { return static_cast<int64_t>(slot_token.size()); }
    RowGroups groups(bool through_index) const {
        return {expert_offsets, through_index ? slot_token.data() : nullptr};
    }
};

namespace ops {

// logits fp32 [T, E], bias fp32 [E] or undefined; scores fp32 [T, E] = s (kept for backward),
// indices i32 [T, k] in ascending expert id, weights fp32 [T, k].
void router(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights);

// d_weights fp32 [T, k] -> d_logits fp32 [T, E], overwritten. d_scores fp32 [T, E] (of the balance
// loss) is added to the scores' gradient if defined.
void router_backward(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                     const Tensor& weights, const Tensor& d_weights, const Tensor& d_scores,
                     const Tensor& d_logits);

// DeepSeek-V3's sequence-wise balance loss (§2.1.2, eq. 17-20) over sequences given by offsets
// [sequences + 1]: per sequence sum_i f_i P_i, f_i = E/(k T) · count, P_i = mean over tokens of s_i
// / sum_j s_j; result: the sum over sequences, each fp64, P_i to 2^-40 a
// token. d_scores [T, E] (if defined) receives
// scale times its derivative.
ExactSum balance_loss(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                      std::span<const int64_t> sequence_offsets, float scale,
                      const Tensor& d_scores);

// indices i32 [T, k]; grain_offsets [grains + 1] token rows. room [grains, E]: so many tokens of a
// grain an expert takes, in the order of tokens, the others are dropped; empty: no limit.
TokenMap make_token_map(const Tensor& indices, int64_t experts,
                        std::span<const int64_t> grain_offsets, std::span<const int64_t> room = {});

struct Combine {
    Tensor slots;                    // [slots, D] expert outputs in slot order
    const float* weights = nullptr;  // [T*k] by (token, choice), or null for 1
    Tensor add1, add2;  // [T, D] more addends (any float dtype), added after the slots in this
                        // order; may be undefined
    Tensor out;         // [T, D]
};
// out[t] = sum over t's choices that are not dropped, in ascending expert id, of weight ·
// slots[slot], + add1 + add2; fp32, rounded once.
void combine(const Combine& io, const TokenMap& map);

// Copies rows into slot order: out[s] = x[slot_token[s]]. (What dispatch does on one rank.)
void permute(const Tensor& x, const TokenMap& map, const Tensor& out);

}  // namespace ops
}  // namespace fucina
