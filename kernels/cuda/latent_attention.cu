// Decoding with MLA: a block has one head of one query. Sums in the order of kernels/attention.h:
// sixteen lanes are half a warp.
#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/functions.h"
#include "kernels/cuda/device/launch.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 512, kLanes = 16, kHalves = kThreads / kLanes;
constexpr int64_t kMostScores = int64_t{1} << 24;  // of the queries that are worked on together

struct Latent {
    FloatRows q, c, k_rope, kv_up, out;
    float* p = nullptr;  // [blocks, cached], scratch
    int64_t cached = 0, queries = 0, first_query = 0, heads = 0, nope = 0, rope = 0, v = 0,
            rank = 0;
    float scale = 1;
};

__device__ __forceinline__ int lane_of_half() {
    return static_cast<int>(threadIdx.x) % kLanes;
}
__device__ __forceinline__ int64_t half_of_block() {
    return threadIdx.x / kLanes;
}

// A lane's sum of left · row, after what it has.
__device__ __forceinline__ float lane_dot(const float* left, const FloatRows& rows, int64_t row,
                                          int64_t width, float sum) {
    for (int64_t j = lane_of_half(); j < width; j += kLanes)
        sum = fmaf(left[j], rows.load<1>(row, j).at[0], sum);
    return sum;
}

__device__ __forceinline__ float sum_of_lanes(float lane) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
        lane += __shfl_xor_sync(kAllLanes, lane, distance);
    return lane;
}

// Scores of the first `visible` tokens to p; the largest, for all threads.
__device__ __forceinline__ float scores(const Latent& io, const float* folded, const float* q_rope,
                                        int64_t visible, float* p) {
    FUCINA_SHARED(float[kHalves], largest);
    float most = -INFINITY;
    // A warp's halves go together: the last one may have a token twice.
    for (int64_t first = half_of_block() & ~int64_t{1}; first < visible; first += kHalves) {
        const int64_t wanted = first + half_of_block() % 2;
        const int64_t token = wanted < visible ? wanted : visible - 1;
        const float lane = lane_dot(folded, io.c, token, io.rank, 0.0f);
        const float score =
            io.scale * sum_of_lanes(lane_dot(q_rope, io.k_rope, token, io.rope, lane));
        most = fmaxf(most, score);
        if (lane_of_half() == 0 && token == wanted) p[token] = score;
    }
    if (lane_of_half() == 0) largest[half_of_block()] = most;
    __syncthreads();
    for (const float other : largest) most = fmaxf(most, other);
    return most;
}

// p[s] = e^(p[s] - largest); their sum, for all threads.
__device__ __forceinline__ float exponentials(float* p, int64_t visible, float largest) {
    for (int64_t s = threadIdx.x; s < visible; s += kThreads)
        p[s] = exp_nonpositive(p[s] - largest);
    __syncthreads();
    float lane = 0;
    for (int64_t s = lane_of_half(); s < visible; s += kLanes) lane += p[s];
    return sum_of_lanes(lane);
}

__global__ void __launch_bounds__(kThreads) latent_kernel(const Latent io) {
    FUCINA_DYNAMIC_SHARED(memory, 16);
    auto* const q = reinterpret_cast<float*>(memory);
    float *const folded = q + io.nope + io.rope, *const mixed = folded + io.rank;
    const int64_t query = io.first_query + blockIdx.x / io.heads, head = blockIdx.x % io.heads;
    const int64_t visible = io.cached - io.queries + query + 1;
    const int64_t up = head * (io.nope + io.v), width = io.nope + io.rope;
    float* const p = io.p + blockIdx.x * io.cached;

    for (int64_t i = threadIdx.x; i < width; i += kThreads)
        q[i] = io.q.load<1>(query, head * width + i).at[0];
    __syncthreads();
    for (int64_t j = threadIdx.x; j < io.rank; j += kThreads) {
        float sum = 0;
        for (int64_t i = 0; i < io.nope; ++i)
            sum = fmaf(q[i], io.kv_up.load<1>(up + i, j).at[0], sum);
        folded[j] = sum;
    }
    __syncthreads();
    const float largest = scores(io, folded, q + io.nope, visible, p);
    const float inverse = 1.0f / exponentials(p, visible, largest);
    for (int64_t j = threadIdx.x; j < io.rank; j += kThreads) {
        float sum = 0;
        for (int64_t s = 0; s < visible; ++s) sum = fmaf(p[s], io.c.load<1>(s, j).at[0], sum);
        mixed[j] = sum * inverse;
    }
    __syncthreads();
    for (int64_t first = half_of_block() & ~int64_t{1}; first < io.v; first += kHalves) {
        const int64_t wanted = first + half_of_block() % 2;
        const int64_t column = wanted < io.v ? wanted : io.v - 1;
        const float value =
            sum_of_lanes(lane_dot(mixed, io.kv_up, up + io.nope + column, io.rank, 0.0f));
        if (lane_of_half() == 0 && column == wanted)
            io.out.store(query, head * io.v + column, Pack<float, 1>{value});
    }
}

}  // namespace

void latent_attention(const Exec& exec, const ops::LatentAttention& in) {
    const int64_t queries = in.q.rows(), cached = in.c.rows();
    if (queries == 0) return;
    const int64_t together = std::clamp<int64_t>(kMostScores / (in.heads * cached), 1, queries);
    const Tensor p = exec.empty({together * in.heads, cached}, DType::f32);
    Latent io{.q = in.q,
              .c = in.c,
              .k_rope = in.k_rope,
              .kv_up = in.kv_up,
              .out = in.out,
              .p = p.data<float>(),
              .cached = cached,
              .queries = queries,
              .heads = in.heads,
              .nope = in.nope,
              .rope = in.k_rope.row_size(),
              .v = in.v,
              .rank = in.c.row_size(),
              .scale = in.scale};
    for (; io.first_query < queries; io.first_query += together)
        launch(latent_kernel,
               {.grid = blocks_of(std::min(together, queries - io.first_query) * in.heads, 1),
                .block = dim3(kThreads),
                .smem = static_cast<size_t>(io.nope + io.rope + 2 * io.rank) * sizeof(float),
                .stream = exec.stream},
               io);
}

}  // namespace fucina::cuda
