// The router: one warp a token. A value's place is the number of values before it in descending
// order, counted without sorting, ties to the lowest index. NaN comes before nothing, so that with
// NaNs too many may have a place among the first k; the lowest of them are taken.
#include "kernels/cuda/router.h"

#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/functions.h"
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
        const float score = sigmoid(io.logits.row(token)[e]);
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

// balance_loss of kernels/moe.h, in fp64 and integers, sums in the CPU's order.
struct Balance {
    Matrix<const float> scores;
    const int32_t* indices = nullptr;  // [T, k]
    const int64_t* offsets = nullptr;  // [sequences + 1]
    int64_t sequences = 0, tokens = 0;
    int experts = 0, top_k = 0;
    double* inverse = nullptr;    // [T] of a token's sum of scores
    double* frequency = nullptr;  // [sequences, E], and the sequence's loss by experts
    double* terms = nullptr;
    float scale = 0;
    Matrix<float> d_scores;
};
constexpr double kShareUnit = 0x1p40;  // shares add up in integers, so that no cut shows
constexpr int kChains = 8;             // of a token's sum of scores

__global__ void __launch_bounds__(kThreads) inverse_kernel(const Balance io) {
    const int64_t token = token_of_warp();
    if (token >= io.tokens) return;
    double chain = 0;
    for (int e = lane_of_warp(); lane_of_warp() < kChains && e < io.experts; e += kChains)
        chain += static_cast<double>(io.scores.row(token)[e]);
    for (int distance = 1; distance < kChains; distance *= 2)
        chain += __shfl_xor_sync(kAllLanes, chain, distance);
    if (lane_of_warp() == 0) io.inverse[token] = 1.0 / chain;
}

// One block a sequence, one thread an expert at a time.
__global__ void __launch_bounds__(kThreads) frequency_kernel(const Balance io) {
    const int64_t begin = io.offsets[blockIdx.x], end = io.offsets[blockIdx.x + 1];
    const auto tokens = static_cast<double>(end - begin);
    for (int e = threadIdx.x; e < io.experts; e += kThreads) {
        int64_t count = 0, share = 0;
        for (int64_t i = begin * io.top_k; i < end * io.top_k; ++i)
            count += io.indices[i] == e ? 1 : 0;
        for (int64_t t = begin; t < end; ++t)
            share += __double2ll_rn(static_cast<double>(io.scores.row(t)[e]) * io.inverse[t] *
                                    kShareUnit);
        const double frequency =
            begin < end ? static_cast<double>(count * io.experts) / (io.top_k * tokens) : 0.0;
        const int64_t cell = int64_t{blockIdx.x} * io.experts + e;
        io.frequency[cell] = frequency;
        io.terms[cell] =
            begin < end ? frequency * static_cast<double>(share) / (kShareUnit * tokens) : 0.0;
    }
}

__device__ __forceinline__ int64_t sequence_of(const Balance& io, int64_t token) {
    int64_t first = 0, last = io.sequences;  // offsets[first] <= token < offsets[last]
    while (last - first > 1) {
        const int64_t middle = (first + last) / 2;
        (io.offsets[middle] <= token ? first : last) = middle;
    }
    return first;
}

__global__ void __launch_bounds__(kThreads) balance_grad_kernel(const Balance io) {
    const int64_t token = token_of_warp();
    if (token >= io.tokens) return;
    const int64_t sequence = sequence_of(io, token);
    const double* const frequency = io.frequency + sequence * io.experts;
    const float* const s = io.scores.row(token);
    const int lane = lane_of_warp();
    double mean = 0;  // one chain
    for (int e = 0; lane == 0 && e < io.experts; ++e)
        mean += frequency[e] * static_cast<double>(s[e]);
    mean = __shfl_sync(kAllLanes, mean, 0) * io.inverse[token];
    const double factor = static_cast<double>(io.scale) * io.inverse[token] /
                          static_cast<double>(io.offsets[sequence + 1] - io.offsets[sequence]);
    for (int e = lane; e < io.experts; e += kWarpSize)
        io.d_scores.row(token)[e] = static_cast<float>(factor * (frequency[e] - mean));
}

Shape shape_of(const RouterConfig& config, const Tensor& indices) {
    FUCINA_CHECK(indices.contiguous() && config.experts < INT32_MAX, "indices are ",
                 indices.describe());
    return {.tokens = indices.rows(),
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

void router(const Exec& exec, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
            const Tensor& scores, const Tensor& indices, const Tensor& weights) {
    const Shape shape = shape_of(config, indices);
    if (shape.tokens == 0) return;
    LaunchConfig of = of_tokens(shape.tokens, exec.stream);
    of.smem = static_cast<size_t>(kWarps * shape.words()) * sizeof(float);
    launch(forward_kernel, of,
           Forward{.shape = shape,
                   .logits = logits,
                   .bias = bias.data_or_null<float>(),
                   .scores = scores,
                   .weights = weights,
                   .indices = indices.data<int32_t>()});
}

void router_backward(const Exec& exec, const RouterConfig& config, const Tensor& scores,
                     const Tensor& indices, const Tensor& d_weights, const Tensor& d_scores,
                     const Tensor& d_logits) {
    const Shape shape = shape_of(config, indices);
    if (shape.tokens == 0) return;
    launch(backward_kernel, of_tokens(shape.tokens, exec.stream),
           Backward{.shape = shape,
                    .scores = scores,
                    .d_weights = d_weights,
                    .d_scores = d_scores,
                    .indices = indices.data<int32_t>(),
                    .d_logits = d_logits});
}

ExactSum balance_loss(const Exec& exec, const RouterConfig& config, const Tensor& scores,
                      const Tensor& indices, const Tensor& sequence_offsets, float scale,
                      const Tensor& d_scores) {
    const int64_t tokens = scores.rows(), sequences = sequence_offsets.rows() - 1;
    ExactSum total;
    if (tokens == 0 || sequences == 0) return total;
    const Shape shape = shape_of(config, indices);
    const Tensor inverse = exec.empty({tokens}, DType::f64);
    const Tensor frequency = exec.empty({sequences, config.experts}, DType::f64);
    const Tensor terms = exec.empty({sequences, config.experts}, DType::f64);
    const Balance io{.scores = scores,
                     .indices = indices.data<int32_t>(),
                     .offsets = sequence_offsets.data<int64_t>(),
                     .sequences = sequences,
                     .tokens = tokens,
                     .experts = shape.experts,
                     .top_k = shape.top_k,
                     .inverse = inverse.data<double>(),
                     .frequency = frequency.data<double>(),
                     .terms = terms.data<double>(),
                     .scale = scale,
                     .d_scores = d_scores};
    launch(inverse_kernel, of_tokens(tokens, exec.stream), io);
    launch(frequency_kernel,
           {.grid = dim3(static_cast<unsigned>(sequences)),
            .block = dim3(kThreads),
            .stream = exec.stream},
           io);
    if (d_scores.defined()) launch(balance_grad_kernel, of_tokens(tokens, exec.stream), io);
    const HostValues<double> by_expert(exec, terms);
    for (size_t first = 0; first < by_expert.size(); first += static_cast<size_t>(shape.experts)) {
        double loss = 0;
        for (const double term :
             by_expert.span().subspan(first, static_cast<size_t>(shape.experts)))
            loss += term;
        total.add(loss);
    }
    return total;
}

}  // namespace fucina::cuda
