// Backward of flash attention: P is formed again from the log-sum-exp. dQ, dK and dV are a kernel
// each, in which a block owns 64 rows of the result: dQ's goes through the keys, the others through
// the queries, heads of a group in order. That makes 8 products of the usual 5, and no sum that
// several blocks add to.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device/functions.h"
#include "kernels/cuda/device/tile_products.h"
#include "kernels/k_cut.h"

namespace fucina::cuda {
namespace {

enum class Of { queries, keys, values };

struct Backward {
    HeadRows q, d_out, k, v, dq, dk, dv;
    Documents documents;
    const float *lse = nullptr, *delta = nullptr;  // [heads, tokens]
    int64_t tokens = 0;
    int group = 1;  // heads of a key-value head
    float scale = 1;
};

// P, for dV, or dS = P (dP - delta) scale, to tiles.left. Rows of the document, and of the tensors.
struct Pairs {
    int64_t rows = 0, others = 0;                  // first rows of the document
    int64_t document_rows = 0;                     // where queries end
    const float *lse = nullptr, *delta = nullptr;  // at the document's first query
};
template <Of kOf>
__device__ __forceinline__ void gradient_of_scores(const Scores& scores, const Scores& d_p,
                                                   const Pairs& pairs, const Backward& io,
                                                   Tiles<>& tiles) {
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i)
        for (int j = 0; j < kOwnOthers; ++j) {
            const int64_t row = pairs.rows + own_row(i), other = pairs.others + own_other(j);
            const int64_t query = kOf == Of::queries ? row : other;
            const int64_t key = kOf == Of::queries ? other : row;
            float left = 0;
            if (key <= query && query < pairs.document_rows) {
                left = exp_nonpositive(scores.at[i][j] * io.scale - pairs.lse[query]);
                if (kOf != Of::values) left = left * (d_p.at[i][j] - pairs.delta[query]) * io.scale;
            }
            tiles.left[own_row(i)][own_other(j)] = io.q.own.rounded(left);
        }
}

template <Of kOf, int kGroups>
__global__ void __launch_bounds__(kTileThreads, kGroups < 4 ? 2 : 1)
    gradient_kernel(const Backward io) {
    FUCINA_SHARED(Tiles<>, tiles);
    constexpr bool kByQueries = kOf == Of::queries;
    // The longest first: the last queries, the first keys.
    const DocumentTile at =
        tile_at<kTileRows>(io.documents, kByQueries ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    if (at.first >= at.rows) return;
    const RowRange rows = at.range(at.first, kTileRows, blockIdx.y);
    const int column = static_cast<int>(blockIdx.z) * kGroups * kTileColumns;
    RowSums<kGroups> sums{};
    for (int i = 0; i < (kByQueries ? 1 : io.group); ++i) {
        const int64_t head = kByQueries ? rows.head / io.group : rows.head * io.group + i;
        const int64_t of_query = (kByQueries ? rows.head : head) * io.tokens + at.begin;
        const int64_t end = kByQueries ? at.first + rows.count : at.rows;
        for (int64_t first = kByQueries ? 0 : at.first; first < end; first += kTileOthers) {
            const RowRange others = at.range(first, kTileOthers, head);
            Scores scores, d_p{};
            if constexpr (kByQueries) {
                scores = dot_products(io.q, rows, io.k, others, tiles);
                d_p = dot_products(io.d_out, rows, io.v, others, tiles);
            } else {
                scores = dot_products(io.k, rows, io.q, others, tiles);
                if (kOf == Of::keys) d_p = dot_products(io.v, rows, io.d_out, others, tiles);
            }
            gradient_of_scores<kOf>(scores, d_p,
                                    {.rows = at.first,
                                     .others = first,
                                     .document_rows = at.rows,
                                     .lse = io.lse + of_query,
                                     .delta = io.delta + of_query},
                                    io, tiles);
            add_products(kByQueries        ? io.k
                         : kOf == Of::keys ? io.q
                                           : io.d_out,
                         others, column, tiles, sums);
        }
    }
    store_sums(sums, kByQueries ? io.dq : kOf == Of::keys ? io.dk : io.dv, rows, column);
}

constexpr int kRowThreads = 256, kLanes = 16;

// delta[head][token] = d_out · out, of which each has `width` columns a head; half a warp each.
struct Delta {
    FloatRows d_out, out;
    int64_t tokens = 0, heads = 0, width = 0;
    float* delta = nullptr;
};
__global__ void __launch_bounds__(kRowThreads) delta_kernel(const Delta io) {
    const int64_t index = (int64_t{blockIdx.x} * kRowThreads + threadIdx.x) / kLanes;
    const int64_t token = index / io.heads, head = index % io.heads;
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    float sum = 0;
    for (int64_t c = lane; c < io.width && token < io.tokens; c += kLanes) {
        const int64_t column = head * io.width + c;
        sum = fmaf(io.d_out.load<1>(token, column).at[0], io.out.load<1>(token, column).at[0], sum);
    }
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(kAllLanes, sum, distance);
    if (lane == 0 && token < io.tokens) io.delta[head * io.tokens + token] = sum;
}

// Heads' gradients of the shared keys, one below the other, to their sum: in order within a chunk,
// chunks along the tree.
struct SharedSum {
    const float* parts = nullptr;  // [heads, tokens, width]
    FloatRows out;
    int64_t tokens = 0, width = 0;
    int chunks = 1, heads_of_chunk = 1;
};
__global__ void __launch_bounds__(kRowThreads) shared_sum_kernel(const SharedSum io) {
    static_assert(kMostChunks == 4);
    const int64_t index = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
    if (index >= io.tokens * io.width) return;
    const auto chunk = [&](int64_t number) {
        float sum = 0;
        for (int64_t i = 0; i < io.heads_of_chunk; ++i)
            sum += io.parts[(number * io.heads_of_chunk + i) * io.tokens * io.width + index];
        return sum;
    };
    float sum = chunk(0);
    if (io.chunks > 1) sum += chunk(1);
    if (io.chunks > 2) sum += chunk(2) + chunk(3);
    io.out.store(index / io.width, index % io.width, Pack<float, 1>{sum});
}

Tensor make_delta(const Exec& exec, const AttentionShape& shape, const ops::AttentionBackward& in) {
    const Tensor delta = exec.empty({shape.heads, in.q.rows()}, DType::f32);
    const Delta io{.d_out = in.d_out,
                   .out = in.out,
                   .tokens = in.q.rows(),
                   .heads = shape.heads,
                   .width = shape.d_v,
                   .delta = delta.data<float>()};
    launch(delta_kernel,
           {.grid = blocks_of(io.tokens * io.heads * kLanes, kRowThreads),
            .block = dim3(kRowThreads),
            .stream = exec.stream},
           io);
    return delta;
}

void sum_shared(const Exec& exec, const AttentionShape& shape, const Tensor& parts,
                const Tensor& out) {
    const SharedSum io{.parts = parts.data<float>(),
                       .out = out,
                       .tokens = out.rows(),
                       .width = shape.d_shared,
                       .chunks = static_cast<int>(shape.chunks),
                       .heads_of_chunk = static_cast<int>(shape.kv_heads / shape.chunks)};
    launch(shared_sum_kernel,
           {.grid = blocks_of(io.tokens * io.width, kRowThreads),
            .block = dim3(kRowThreads),
            .stream = exec.stream},
           io);
}

void check_backward(const AttentionShape& shape, const ops::AttentionBackward& io) {
    FUCINA_CHECK(io.q.dtype() == io.d_out.dtype() && io.q.dtype() == io.kv.k_own.dtype() &&
                     io.lse.defined() && io.lse.contiguous() && io.lse.rows() == shape.heads,
                 "attention_backward of ", io.q.describe(), " and ", io.d_out.describe());
    if (shape.d_shared == 0) return;
    check_chunks(shape.chunks, shape.kv_heads, "key-value heads");
    const Tensor& shared = io.dkv.k_shared;
    FUCINA_CHECK(shared.dtype() == io.q.dtype() || shared.dtype() == DType::f32, "shared keys of ",
                 io.q.describe(), " have a gradient ", shared.describe());
}

}  // namespace

void attention_backward(const Exec& exec, const AttentionShape& shape,
                        const ops::AttentionBackward& in) {
    check_backward(shape, in);
    const int64_t tokens = in.q.rows(), own = shape.d_qk - shape.d_shared;
    if (tokens == 0) return;
    Tensor parts;
    if (shape.d_shared > 0)
        parts = exec.empty({shape.kv_heads * tokens, shape.d_shared}, DType::f32);
    const Tensor delta = make_delta(exec, shape, in);
    const Backward io{
        .q = head_rows(in.q, shape.d_qk, shape.d_qk),
        .d_out = head_rows(in.d_out, shape.d_v, shape.d_v),
        .k = head_rows(in.kv.k_own, in.kv.k_head_stride, own, {in.kv.k_shared, shape.d_shared}),
        .v = head_rows(in.kv.v, in.kv.v_head_stride, shape.d_v),
        .dq = head_rows(in.dq, shape.d_qk, shape.d_qk),
        .dk = head_rows(in.dkv.k_own, in.dkv.k_head_stride, own, {parts, shape.d_shared, tokens}),
        .dv = head_rows(in.dkv.v, in.dkv.v_head_stride, shape.d_v),
        .documents = Documents(shape.cu_seqlens),
        .lse = in.lse.data<float>(),
        .delta = delta.data<float>(),
        .tokens = tokens,
        .group = static_cast<int>(shape.heads / shape.kv_heads),
        .scale = shape.scale};
    launch_tiles(exec, io, shape.heads, shape.d_qk,
                 [](auto groups) { return gradient_kernel<Of::queries, groups>; });
    launch_tiles(exec, io, shape.kv_heads, shape.d_qk,
                 [](auto groups) { return gradient_kernel<Of::keys, groups>; });
    launch_tiles(exec, io, shape.kv_heads, shape.d_v,
                 [](auto groups) { return gradient_kernel<Of::values, groups>; });
    if (parts.defined()) sum_shared(exec, shape, parts, in.dkv.k_shared);
}

}  // namespace fucina::cuda
