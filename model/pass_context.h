// PassContext: what all layers of one pass share. Tokens are flat, [T, ...]; there is no batch
// dimension.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/exact_sum.h"
#include "kernels/rope.h"
#include "model/recompute.h"
#include "model/weight_grad_queue.h"
#include "parallel/token_dispatcher.h"

namespace fucina {

// What MoE layers report, once per layer and pass, from backward (which runs once even under
// recompute).
struct MoeReport {
    std::vector<std::vector<int64_t>> expert_counts;  // [MoE layers][E]
    ExactSum balance;                                 // unscaled, summed over layers
};

struct PassContext {
    int64_t tokens = 0;
    const int32_t* positions = nullptr;         // [T]
    std::span<const int64_t> cu_seqlens;        // [documents + 1]
    std::span<const int64_t> sequence_offsets;  // [sequences + 1]
    std::span<const int64_t> grain_offsets;     // [grains + 1]
    // Of weight gradients: of what tensor parallelism cuts; and of what it leaves whole, whose
    // leaves are chunks of a grain's tokens. Experts' are their own.
    std::shared_ptr<const SumNodes> nodes, chunk_nodes;
    const RopeTable* rope = nullptr;
    int64_t chunks = 1;        // exact.chunks
    DType dtype = DType::f32;  // of activations
    RecomputeKind recompute = RecomputeKind::none;
    bool keeps = false;  // what backward needs; without backward, layers let go of all they can
    double balance_scale = 0;
    WeightGradQueue* weight_grads = nullptr;
    const TokenDispatcher* dispatcher = nullptr;  // null: all experts are here
    bool ranks_apart = false;  // gradients of experts are those of each rank's tokens
    MoeReport* report = nullptr;

    void cut_grains(std::span<const int64_t> offsets, bool apart) {
        nodes = make_nodes(offsets, apart, 1);
        chunk_nodes = chunks == 1 ? nodes : make_nodes(offsets, apart, chunks);
    }
    Tensor activations(int64_t rows, int64_t columns) const {
        return Tensor::empty({rows, columns}, dtype);
    }
};

}  // namespace fucina
