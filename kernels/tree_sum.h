// Sums of anything that is a row of fp32, along a LeafTree (kernels/leaf_tree.h) and over chunks
// (kernels/k_cut.h).
#pragma once
#include <algorithm>
#include <bit>
#include <vector>

#include "kernels/k_cut.h"
#include "kernels/leaf_tree.h"

namespace fucina {

// out[width] = sum over the tree's leaves; leaf_sum(begin, end, sum) adds rows [begin, end) to the
// zeros in sum.
template <class LeafSum>
void sum_along_tree(const LeafTree& tree, int64_t width, float* out, const LeafSum& leaf_sum) {
    std::vector<std::vector<float>> partial;
    for (size_t leaf = 0; leaf < tree.merges.size(); ++leaf) {
        partial.emplace_back(static_cast<size_t>(width), 0.0f);
        leaf_sum(tree.offsets[leaf], tree.offsets[leaf + 1], partial.back().data());
        for (int merge = 0; merge < tree.merges[leaf]; ++merge) {
            const std::vector<float> right = std::move(partial.back());
            partial.pop_back();
            float* left = partial.back().data();
            for (size_t j = 0; j < right.size(); ++j) left[j] += right[j];
        }
    }
    FUCINA_CHECK(partial.size() <= 1, "a tree of ", tree.leaves(), " leaves left ", partial.size(),
                 " sums");
    if (partial.empty())
        std::fill(out, out + width, 0.0f);
    else
        std::copy(partial[0].begin(), partial[0].end(), out);
}

// Partial sums of kMostChunks chunks alive at once.
constexpr int64_t kPartialSums = 3;

// How often, after chunk c of a tree of chunks, the two newest partial sums become their sum.
inline int merges_after(int64_t chunk) {
    return std::countr_one(static_cast<uint64_t>(chunk));
}

// sums, kPartialSums of them and `stride` floats apart: the first becomes the sum of the chunks
// along the contiguous binary tree. chunk_sum(c, sum) writes that of chunk c; add(x, y) is y += x.
template <class ChunkSum, class Add>
void sum_chunks(int64_t chunks, float* sums, int64_t stride, const ChunkSum& chunk_sum,
                const Add& add) {
    float* next = sums;
    for (int64_t chunk = 0; chunk < chunks; ++chunk, next += stride) {
        chunk_sum(chunk, next);
        for (int merges = merges_after(chunk); merges > 0; --merges) {
            add(next, next - stride);
            next -= stride;
        }
    }
}

}  // namespace fucina
