// The trees of kernels/leaf_tree.h on the device.
#pragma once
#include <bit>

#include "kernels/cuda/device/platform.h"

namespace fucina::cuda {

// LeafTree::merges of a tree of `leaves`: the subtrees that end with this leaf.
__device__ __forceinline__ int merges_after_leaf(int64_t leaf, int64_t leaves) {
    int merges = 0;
    while (leaves > 1) {
        const int64_t first = (leaves + 1) / 2;
        merges = leaf < first ? 0 : merges + 1;
        leaf -= leaf < first ? 0 : first;
        leaves = merges == 0 ? first : leaves - first;
    }
    return merges;
}

// Sums of such a tree that wait at a time, at most, for the leaf after them.
inline int waiting_sums(int64_t leaves) {
    return static_cast<int>(std::bit_width(static_cast<uint64_t>(leaves > 0 ? leaves - 1 : 0)));
}

}  // namespace fucina::cuda
