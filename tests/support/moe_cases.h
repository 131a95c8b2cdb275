// Cases of moe.h, the same for every back end.
#pragma once
#include <functional>
#include <vector>

#include "kernels/moe.h"
#include "tests/support/kernel_case.h"

namespace fucina::test {

// A back end's kernels, with the contracts of ops::.
struct MovementKernels {
    std::function<TokenMap(const Tensor& indices, int64_t experts, const Tensor& grain_offsets,
                           const Tensor& room)>
        make_token_map;
    std::function<void(const Tensor& indices, const Tensor& grain_offsets, const Tensor& out)>
        count_choices;
    std::function<void(const std::vector<int64_t>& loads, float rate, const Tensor& bias)>
        update_router_bias;
    std::function<void(const ops::Combine& io, const TokenMap& map)> combine;
    std::function<void(const Tensor&x, const Tensor&index, const Tensor&out)> gather_rows,
        scatter_rows;
};

struct RouterKernels {
    std::function<void(const RouterConfig& config, const Tensor& logits, const Tensor& bias,
                       const Tensor& scores, const Tensor& indices, const Tensor& weights)>
        router;
    std::function<void(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                       const Tensor& weights, const Tensor& d_weights, const Tensor& d_scores,
                       const Tensor& d_logits)>
        router_backward;
};

using BalanceLoss =
    std::function<ExactSum(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                           const Tensor& sequence_offsets, float scale, const Tensor& d_scores)>;

// fp32 [tokens, experts] of infinities and NaN, more and more of the latter.
Tensor non_finite_logits(int64_t tokens, int64_t experts);

void add_movement_cases(Cases& cases, const MovementKernels& fast);
void add_router_cases(Cases& cases, const RouterKernels& fast);
void add_balance_cases(Cases& cases, const BalanceLoss& fast);

}  // namespace fucina::test
