// Who computes which grains of the global batch, and in which passes: always nodes of the one tree
// of kernels/leaf_tree.h, so that neither the number of ranks nor the size of a pass changes a sum.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/leaf_tree.h"

namespace fucina {

constexpr int kMaxReplicas = 8;

// Whether `ranks` data-parallel ranks can each hold one node of the tree: a power of two up to 8.
bool ranks_fit_tree(int ranks);

// The grains of every rank, in rank order. Sizes that fit the tree split it from the top, a node's
// halves going to halves of the ranks; other sizes (fast numerics only) share the grains evenly. A
// rank may have none.
std::vector<GrainRange> share_grains(int64_t grains, int ranks);

// One forward and backward: after it, the newest two partial sums are added `merges` times.
struct Pass {
    GrainRange grains;
    int merges = 0;
};

// Cuts a node into nodes of at most max_grains (at least one).
std::vector<Pass> plan_passes(GrainRange node, int64_t max_grains);

// The most partial sums that are held at once. A pass that ends in a merge adds to an earlier sum
// as it goes and needs none of its own.
int held_sums(const std::vector<Pass>& passes);

}  // namespace fucina
