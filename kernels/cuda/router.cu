// The router: one warp a token. A value's place is the number of values before it in descending
// order, counted without sorting, ties to the lowest index. NaN comes before nothing, so that with
// NaNs too many may have a place among the first k; the lowest of them are taken.
#include "kernels/cuda/router.h"

#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;
constexpr float kTiny = 1e-20f;  // keeps the normalising sum from zero, as published

struct Shape {
    int64_t tokens = 0;
    int experts = 0, top_k = 0, groups = 0, topk_groups = 0;
    bool normalize = true;
    float scale = 1;

    // Of a warp's Scratch.
    __host__ __device__ int words() const { return experts + 2 * groups + top_k; }
};

// What a warp writes for its lanes to see.
struct Scratch {
    float* choice;    // [E]: s + bias, NaN in groups that are closed
    float* group;     // [groups]: scores of groups
    int* open;        // [groups]
    int32_t* chosen;  // [top_k]
};

__device__ __forceinline__ int lane_of_warp() {
    return static_cast<int>(threadIdx.x) % kWarpSize;
}
__device__ __forceinline__ int64_t token_of_warp() {
    return int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
}

__device__ __forceinline__ Scratch own_scratch(unsigned char* memory, const Shape& shape) {
    auto* words = reinterpret_cast<float*>(memory) +
                  static_cast<int>(threadIdx.x) / kWarpSize * shape.words();
    auto* open = reinterpret_cast<int*>(words + shape.experts + shape.groups);
    return {words, words + shape.experts, open, open + shape.groups};
}

// How many of x [count] come before element i.
__device__ __forceinline__ int place_of(const float* x, int count, int i) {
    const float own = x[i];
    int before = 0;
    for (int other = 0; other < i; ++other) before += x[other] >= own ? 1 : 0;
    for (int other = i + 1; other < count; ++other) before += x[other] > own ? 1 : 0;
    return before;
}

// The sum of the two largest; of the only one, if there is one.
__device__ __forceinline__ float two_largest(const float* x, int count) {
    float first = x[0], second = -INFINITY;
    for (int i = 1; i < count; ++i) {
        const float smaller = first < x[i] ? first : x[i];
        second = second < smaller ? smaller : second;
        first = first < x[i] ? x[i] : first;
    }
    return count == 1 ? first : first + second;
}

// Opens the best groups; the choices of others become NaN.
__device__ __forceinline__ void open_groups(const Shape& shape, const Scratch& scratch) {
    const int size = shape.experts / shape.groups;
    for (int g = lane_of_warp(); g < shape.groups; g += kWarpSize)
        scratch.group[g] = two_largest(scratch.choice + g * size, size);
    __syncwarp();
    for (int g = lane_of_warp(); g < shape.groups; g += kWarpSize) {
        scratch.open[g] = place_of(scratch.group, shape.groups, g) < shape.topk_groups ? 1 : 0;
        for (int e = g * size; scratch.open[g] == 0 && e < (g + 1) * size; ++e)
            scratch.choice[e] = NAN;
    }
    __syncwarp();
}

// Writes the chosen experts in ascending order.
__device__ __forceinline__ void choose(const Shape& shape, const Scratch& scratch) {
    const int size = shape.experts / shape.groups, lane = lane_of_warp();
    int found = 0;
    for (int first = 0; first < shape.experts; first += kWarpSize) {
        const int e = first + lane;
        const bool own = e < shape.experts && scratch.open[e / size] != 0 &&
                         place_of(scratch.choice, shape.experts, e) < shape.top_k;
        const uint32_t owned = __ballot_sync(kAllLanes, own);
        const int place = found + __popc(owned & ((1u << lane) - 1));
        if (own && place < shape.top_k) scratch.chosen[place] = e;
        found += __popc(owned);
    }
    __syncwarp();
}

struct Forward {
    Shape shape;
    Matrix<const float> logits;
    const float* bias = nullptr;  // or null
    Matrix<float> scores, weights;
    int32_t* indices = nullptr;  // [T, k]
};

__global__ void __launch_bounds__(kThreads) forward_kernel(const Forward io) {
    FUCINA_DYNAMIC_SHARED(memory, 16);
    const Shape& shape = io.shape;
    const int64_t token = token_of_warp();
    if (token >= shape.tokens) return;
    const Scratch scratch = own_scratch(memory, shape);
    float* const scores = io.scores.row(token);
    for (int e = lane_of_warp(); e < shape.experts; e += kWarpSize) {
        const float score = 1.0f / (1.0f + expf(-io.logits.row(token)[e]));
        scores[e] = score;
        scratch.choice[e] = io.bias != nullptr ? score + io.bias[e] : score;
    }
    __syncwarp();
    open_groups(shape, scratch);
    choose(shape, scratch);
    float sum = kTiny;
    for (int j = 0; j < shape.top_k; ++j) sum += scores[scratch.chosen[j]];
    for (int j = lane_of_warp(); j < shape.top_k; j += kWarpSize) {
        const float score = scores[scratch.chosen[j]];
        io.indices[token * shape.top_k + j] = scratch.chosen[j];
        io.weights.row(token)[j] = (shape.normalize ? score / sum : score) * shape.scale;
    }
}

struct Backward {
    Shape shape;
    Matrix<const float> scores, d_weights, d_scores;  // d_scores.data may be null
    const int32_t* indices = nullptr;                 // [T, k]
    Matrix<float> d_logits;
};

__global__ void __launch_bounds__(kThreads) backward_kernel(const Backward io) {
    const Shape& shape = io.shape;
    const int64_t token = token_of_warp();
    if (token >= shape.tokens) return;
    const float *s = io.scores.row(token), *dw = io.d_weights.row(token);
    const int32_t* const chosen = io.indices + token * shape.top_k;
    float sum = kTiny, dot = 0;
    for (int j = 0; j < shape.top_k; ++j) {
        sum += s[chosen[j]];
        dot += dw[j] * s[chosen[j]];
    }
    for (int e = lane_of_warp(); e < shape.experts; e += kWarpSize) {
        float ds = io.d_scores.data != nullptr ? io.d_scores.row(token)[e] : 0.0f;
        for (int j = 0; j < shape.top_k; ++j)
            if (chosen[j] == e)
                ds += shape.scale * (shape.normalize ? (dw[j] - dot / sum) / sum : dw[j]);
        io.d_logits.row(token)[e] = ds * (s[e] * (1.0f - s[e]));
    }
}

Shape shape_of(const RouterConfig& config, const Tensor& scores, const Tensor& indices,
               const Tensor& weights) {
    check_router(config);
    const int64_t tokens = scores.rows();
    check_matrix(scores, tokens, config.experts, DType::f32);
    check_matrix(indices, tokens, config.top_k, DType::i32);
    check_matrix(weights, tokens, config.top_k, DType::f32);
    FUCINA_CHECK(indices.contiguous() && config.experts < INT32_MAX, "indices are ",
                 indices.describe());
    return {.tokens = tokens,
            .experts = static_cast<int>(config.experts),
            .top_k = static_cast<int>(config.top_k),
            .groups = static_cast<int>(config.groups),
            .topk_groups = static_cast<int>(config.topk_groups),
            .normalize = config.normalize,
            .scale = config.scale};
}

LaunchConfig of_tokens(int64_t tokens, Stream stream) {
    return {.grid = blocks_of(tokens, kWarps), .block = dim3(kThreads), .stream = stream};
}

}  // namespace

void router(const Router& io, Stream stream) {
    const Shape shape = shape_of(io.config, io.scores, io.indices, io.weights);
    check_matrix(io.logits, shape.tokens, shape.experts, DType::f32);
    FUCINA_CHECK(!io.bias.defined() || (io.bias.contiguous() && io.bias.size() == shape.experts),
                 "router bias ", io.bias.describe());
    if (shape.tokens == 0) return;
    LaunchConfig config = of_tokens(shape.tokens, stream);
    config.smem = static_cast<size_t>(kWarps * shape.words()) * sizeof(float);
    launch(forward_kernel, config,
           Forward{.shape = shape,
                   .logits = io.logits,
                   .bias = io.bias.data_or_null<float>(),
                   .scores = io.scores,
                   .weights = io.weights,
                   .indices = io.indices.data<int32_t>()});
}

void router_backward(const RouterBackward& io, Stream stream) {
    const Shape shape = shape_of(io.config, io.scores, io.indices, io.d_weights);
    check_matrix(io.d_logits, shape.tokens, shape.experts, DType::f32);
    if (io.d_scores.defined()) check_matrix(io.d_scores, shape.tokens, shape.experts, DType::f32);
    if (shape.tokens == 0) return;
    launch(backward_kernel, of_tokens(shape.tokens, stream),
           Backward{.shape = shape,
                    .scores = io.scores,
                    .d_weights = io.d_weights,
                    .d_scores = io.d_scores,
                    .indices = io.indices.data<int32_t>(),
                    .d_logits = io.d_logits});
}

}  // namespace fucina::cuda
