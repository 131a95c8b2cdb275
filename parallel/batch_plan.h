// Who computes which grains of the global batch, in which passes, so that neither the number of
// ranks nor the size of a pass changes a sum.
//
// The grains of a batch come in waves of at most SumOrder::replicas, and a wave's grains belong to
// as many logical replicas. Gradients of experts are summed along the tree (kernels/leaf_tree.h)
// over a wave's grains, and wave after wave in a chain. All others are summed wave after wave in a
// chain per replica, and along the tree over replicas. So a rank that owns some replicas needs one
// exchange a step for what it has of every parameter; and a rank that owns some experts, to which
// all replicas send, keeps one sum of them.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/leaf_tree.h"

namespace fucina {

// The constants that define the numbers, beside the order inside products.
struct SumOrder {
    int64_t grain = 1;  // sequences of a leaf
    int replicas = 8;   // a power of two
    bool waves = true;  // false, in fast numerics and with integers: all grains are one wave
    // Each grain's gradients are rounded to a fixed grid and added as integers
    // (kernels/grid_sum.h), in whatever order, so that replicas and tree have no part in them.
    bool integers = false;
};

// One forward and backward: after it, the newest two partial sums are added `merges` times.
struct Pass {
    size_t wave = 0;
    GrainRange grains;  // of the batch, in that wave
    int merges = 0;
    bool ends_wave = false;  // on this rank
};

class BatchPlan {
  public:
    // Ranks that divide `replicas` hold nodes of the tree; others (fast numerics, integers) even
    // shares.
    BatchPlan(int64_t grains, const SumOrder& order, int ranks);

    const SumOrder& order() const { return order_; }
    int64_t grains() const { return waves_.back().end; }
    int ranks() const { return ranks_; }
    std::span<const GrainRange> waves() const { return waves_; }
    bool one_wave() const { return waves_.size() == 1; }

    // Of a wave; may be empty.
    GrainRange share(size_t wave, int rank) const;
    // Of the whole batch, wave by wave.
    std::vector<GrainRange> shares(int rank) const;
    bool holds(int rank) const;
    // The logical replica of a grain of that wave. A wave that is not full spreads over them.
    int replica(size_t wave, int64_t grain) const;

    // A rank's passes, of at most max_grains (at least one).
    std::vector<Pass> passes(int rank, int64_t max_grains) const;

  private:
    SumOrder order_;
    int ranks_;
    std::vector<GrainRange> waves_;
};

// Whether `ranks` data-parallel ranks each hold a node of the tree over replicas.
bool ranks_fit_tree(int ranks, const SumOrder& order);

}  // namespace fucina
