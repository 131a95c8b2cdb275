// Flash attention (arXiv 2205.14135, 2307.08691): a block has 64 queries of a head and goes through
// the keys that they see, with a running maximum over strips of 128 from the document's start.
#include "kernels/cuda/attention.h"

#include "kernels/cuda/device/functions.h"
#include "kernels/cuda/device/tile_products.h"

namespace fucina::cuda {
namespace {

struct Forward {
    HeadRows q, k, v, out;
    Documents documents;
    float* lse = nullptr;  // [heads, tokens], may be null
    int64_t tokens = 0;
    int group = 1;  // heads of a key-value head
    float scale = 1;
};

// Of the thread's rows. The sixteen threads of a row agree on its maximum and have a sixteenth of
// its sum each.
struct RunningSoftmax {
    float largest[kOwnRows], lane[kOwnRows];
};

__device__ __forceinline__ float row_max(float value) {
    for (int distance = kTileSide / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
    return value;
}

__device__ __forceinline__ float row_sum(float value) {
    for (int distance = kTileSide / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(kAllLanes, value, distance);
    return value;
}

constexpr int kStrip = 128;  // keys between two maxima
using Strip = Tiles<kStrip>;

// Scores to the strip's columns from `first`, which begin `before` rows of the document before the
// first query. A thread reads back what it wrote itself.
__device__ __forceinline__ void keep_scores(const Scores& scores, float scale, int64_t before,
                                            int first, Strip& tiles) {
    for (int i = 0; i < kOwnRows; ++i)
        for (int j = 0; j < kOwnOthers; ++j)
            tiles.left[own_row(i)][first + own_other(j)] =
                own_other(j) <= before + own_row(i) ? scores.at[i][j] * scale : -INFINITY;
}

// The first `keys` scores of the strip to probabilities, not yet normalised; all earlier sums
// shrink to the new maximum.
template <int kGroups>
__device__ __forceinline__ void softmax(int keys, const FloatRows& rounding, RunningSoftmax& state,
                                        Strip& tiles, RowSums<kGroups>& sums) {
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
        float* const row = tiles.left[own_row(i)];
        float largest = state.largest[i];
        for (int key = own_other(0); key < keys; key += kTileSide)
            largest = fmaxf(largest, row[key]);
        largest = row_max(largest);
        const float shrink = exp_nonpositive(state.largest[i] - largest);
        state.largest[i] = largest;
        state.lane[i] *= shrink;
        for (int group = 0; group < kGroups; ++group)
            for (int c = 0; c < 4; ++c) sums.at[group][i].at[c] *= shrink;
        for (int key = own_other(0); key < keys; key += kTileSide) {
            const float p = exp_nonpositive(row[key] - largest);
            state.lane[i] += p;
            row[key] = rounding.rounded(p);
        }
    }
}

template <int kGroups>
__global__ void __launch_bounds__(kTileThreads, kGroups < 3 ? 2 : 1)
    forward_kernel(const Forward io) {
    FUCINA_DYNAMIC_SHARED(memory, 16);
    Strip& tiles = *reinterpret_cast<Strip*>(memory);
    // The last tiles of a document take longest: they come first.
    const DocumentTile at = tile_at<kTileRows>(io.documents, gridDim.x - 1 - blockIdx.x);
    if (at.first >= at.rows) return;
    const RowRange queries = at.range(at.first, kTileRows, blockIdx.y);
    const int column = static_cast<int>(blockIdx.z) * kGroups * kTileColumns;
    RunningSoftmax state{};
    for (float& largest : state.largest) largest = -INFINITY;
    RowSums<kGroups> sums{};
    const int64_t end = at.first + queries.count, kv_head = blockIdx.y / io.group;
    for (int64_t strip = 0; strip < end; strip += kStrip) {
        int keys = 0;
        for (; keys < kStrip && strip + keys < end; keys += kTileOthers)
            keep_scores(dot_products(io.q, queries, io.k,
                                     at.range(strip + keys, kTileOthers, kv_head), tiles),
                        io.scale, at.first - strip - keys, keys, tiles);
        softmax(keys, io.v.own, state, tiles, sums);
        for (int first = 0; first < keys; first += kTileOthers)
            add_products(io.v, at.range(strip + first, kTileOthers, kv_head), column, tiles, sums,
                         first);
    }
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
        const float total = row_sum(state.lane[i]), inverse = 1.0f / total;
        for (int group = 0; group < kGroups; ++group)
            for (int c = 0; c < 4; ++c) sums.at[group][i].at[c] *= inverse;
        if (io.lse != nullptr && own_other(0) == 0 && column == 0 && own_row(i) < queries.count)
            io.lse[queries.head * io.tokens + queries.first + own_row(i)] =
                static_cast<float>(double{state.largest[i]} + logarithm(double{total}));
    }
    store_sums(sums, io.out, queries, column);
}

}  // namespace

void attention(const Exec& exec, const AttentionShape& shape, const Tensor& q,
               const AttentionKv& kv, const Tensor& out, const Tensor& lse) {
    FUCINA_CHECK(q.dtype() == kv.k_own.dtype() && q.dtype() == kv.v.dtype() &&
                     q.dtype() == out.dtype() && q.row_size() == shape.heads * shape.d_qk &&
                     out.row_size() == shape.heads * shape.d_v &&
                     (!lse.defined() || lse.contiguous()),
                 "attention of ", q.describe(), " into ", out.describe());
    if (q.rows() == 0) return;
    const Forward io{.q = head_rows(q, shape.d_qk, shape.d_qk),
                     .k = head_rows(kv.k_own, kv.k_head_stride, shape.d_qk - shape.d_shared,
                                    {kv.k_shared, shape.d_shared}),
                     .v = head_rows(kv.v, kv.v_head_stride, shape.d_v),
                     .out = head_rows(out, shape.d_v, shape.d_v),
                     .documents = Documents(shape.cu_seqlens),
                     .lse = lse.data_or_null<float>(),
                     .tokens = q.rows(),
                     .group = static_cast<int>(shape.heads / shape.kv_heads),
                     .scale = shape.scale};
    launch_tiles(
        exec, io, shape.heads, shape.d_v, [](auto groups) { return forward_kernel<groups>; },
        sizeof(Strip));
}

}  // namespace fucina::cuda
