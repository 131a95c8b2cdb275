// The order in which sums over tokens are formed, so that it never depends on how a batch is cut
// into passes or ranks.
//
// A leaf is one grain (exact.grain whole sequences), and within it, for expert weights, the rows of
// one expert. Inside a leaf the sum is one chain over its rows in order (see gemm.h). Leaf sums are
// added along a binary tree over the grains: the tree of n grains is the tree of the first
// ceil(n/2) plus the tree of the rest. A data-parallel rank and a pass of gradient accumulation
// each hold one node of that tree.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/error.h"

namespace fucina {

struct LeafTree {
    std::vector<int64_t> offsets{
        0};  // [leaves + 1] row where each leaf begins; an empty leaf is a leaf of zeros
    std::vector<int>
        merges;  // [leaves] how often, after leaf i, the two newest partial sums become their sum

    int64_t leaves() const { return static_cast<int64_t>(merges.size()); }
    int64_t rows() const { return offsets.back(); }
};

struct GrainRange {
    int64_t begin = 0, end = 0;
    int64_t count() const { return end - begin; }
};

// The two children of a tree node of at least two grains.
inline GrainRange first_half(GrainRange node) {
    return {node.begin, node.begin + (node.count() + 1) / 2};
}
inline GrainRange second_half(GrainRange node) {
    return {node.begin + (node.count() + 1) / 2, node.end};
}

inline void append_merges(int64_t leaves, std::vector<int>& merges) {
    if (leaves <= 1) {
        if (leaves == 1) merges.push_back(0);
        return;
    }
    append_merges((leaves + 1) / 2, merges);
    append_merges(leaves / 2, merges);
    ++merges.back();
}

// offsets: [leaves + 1], ascending, offsets[0] = 0.
inline LeafTree make_leaf_tree(std::vector<int64_t> offsets) {
    FUCINA_CHECK(!offsets.empty() && offsets.front() == 0, "leaf offsets begin at 0");
    LeafTree tree;
    append_merges(static_cast<int64_t>(offsets.size()) - 1, tree.merges);
    tree.offsets = std::move(offsets);
    return tree;
}

}  // namespace fucina
