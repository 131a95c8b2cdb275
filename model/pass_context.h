// PassContext: what all layers of one pass share. Tokens are flat, [T, ...]; there is no batch
// dimension.
//
// Where tensor-parallel ranks share the matrices, a tensor of tokens holds all rows on every rank
// (whole), or the rank's own share of them (own); the residual stream, and what else is computed
// row by row, holds own rows with parallel.sequence, else all (stream).
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/exact_sum.h"
#include "kernels/gemm.h"
#include "kernels/rope.h"
#include "model/recompute.h"
#include "model/weight_grad_queue.h"
#include "parallel/block_weights.h"
#include "parallel/row_shares.h"
#include "parallel/token_dispatcher.h"

namespace fucina {

// What MoE layers report, once per layer and pass, from backward (which runs once even under
// recompute).
struct MoeReport {
    std::vector<std::vector<int64_t>> expert_counts;  // [MoE layers][E], the dropped too
    int64_t dropped = 0;                              // choices, of all layers
    ExactSum balance;                                 // unscaled, summed over layers
};

struct PassContext {
    Exec exec = kHost;
    int64_t tokens = 0;
    Tensor positions;                        // i32 [T, 1]
    Tensor cu_seqlens;                       // i64 [documents + 1]
    Tensor sequence_offsets;                 // i64 [sequences + 1]
    std::span<const int64_t> grain_offsets;  // [grains + 1]
    Tensor own_grains;                       // i64 [grains + 1], as grain_offsets, of own rows
    // Of weight gradients: of what tensor parallelism cuts, over whole rows; and of what it leaves
    // whole, whose leaves are chunks of a grain's tokens, over stream rows and over own rows.
    // Experts' are their own.
    std::shared_ptr<const SumNodes> nodes, chunk_nodes, own_nodes;
    bool grains_apart = false;                // each a node of its own
    Communicator* tensor = nullptr;           // the ranks that share the matrices; null: one
    std::shared_ptr<const RowShares> shares;  // of the rows; null as above
    bool sequence = false;
    Tensor own_positions;  // with sequence
    const RopeTable* rope = nullptr;
    int64_t chunks = 1;        // exact.chunks
    DType dtype = DType::f32;  // of activations
    RecomputeKind recompute = RecomputeKind::none;
    bool keeps = false;  // what backward needs; without backward, layers let go of all they can
    double balance_scale = 0;
    double expert_capacity = 0;  // 0: no token is dropped
    WeightGradQueue* weight_grads = nullptr;
    const TokenDispatcher* dispatcher = nullptr;  // null: all experts are here
    BlockWeights* weights = nullptr;              // null: all weights are here all the time
    ExpertSums expert_sums = ExpertSums::together;
    MoeReport* report = nullptr;

    // Sets the rows' tensors, and with cut_rows what follows from positions and grain_offsets.
    void set_rows(std::span<const int32_t> row_positions, std::span<const int64_t> documents,
                  std::span<const int64_t> sequences) {
        tokens = std::ssize(row_positions);
        positions = tensor_of(exec, row_positions).view({tokens, 1});
        cu_seqlens = tensor_of(exec, documents);
        sequence_offsets = tensor_of(exec, sequences);
    }
    void cut_rows(bool apart) {
        shares = tensor != nullptr ? std::make_shared<RowShares>(*tensor, grain_offsets) : nullptr;
        cut_grains(apart);
        own_grains = tensor_of(exec, shares ? shares->own_offsets() : grain_offsets);
        if (sequence) own_positions = shares->own(positions);
    }
    void cut_grains(bool apart) {
        grains_apart = apart;
        nodes = make_nodes(grain_offsets, apart, 1);
        chunk_nodes = own_nodes = chunks == 1 ? nodes : make_nodes(grain_offsets, apart, chunks);
        if (shares) own_nodes = make_own_nodes(*shares, grain_offsets, apart, chunks);
        if (sequence) chunk_nodes = own_nodes;
    }
    int64_t grains() const { return std::ssize(grain_offsets) - 1; }
    int64_t stream_rows() const { return sequence ? shares->own_rows() : tokens; }
    const Tensor& stream_positions() const { return sequence ? own_positions : positions; }
    Tensor whole(const Tensor& stream) const { return sequence ? shares->all(stream) : stream; }
    Tensor own(const Tensor& stream) const {
        return shares && !sequence ? shares->own(stream) : stream;
    }
    Tensor stream(const Tensor& own) const { return shares && !sequence ? shares->all(own) : own; }
    Tensor stream_of(const Tensor& whole) const { return sequence ? shares->own(whole) : whole; }
    // x Wᵀ of whole rows, where ranks have shares of the columns of x and of W: own rows.
    Tensor sum_linear(const Tensor& x, const PackedWeight& w) const {
        Tensor y = exec.empty({x.rows(), w.n}, shares ? DType::f32 : dtype);
        ops::linear(exec, x, w, y);
        return shares ? shares->sum(y, dtype) : y;
    }
    Tensor activations(int64_t rows, int64_t columns) const {
        return exec.empty({rows, columns}, dtype);
    }
};

}  // namespace fucina
