// The rows of the head's cross-entropy, one block a row of logits. What ranks gather in between is
// the largest logit and the label's, then the sum of exponentials; one rank alone gathers its own.
#include "kernels/cuda/head_loss.h"

#include <cmath>

#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/functions.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/leaf_tree.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256, kLanes = 16, kRuns = kThreads / kLanes;
constexpr int64_t kSumBlock = 1024;  // exponentials are added in blocks, as on the CPU

struct LossRows {
    Matrix<const float> logits;
    const int32_t* labels = nullptr;
    int64_t rows = 0, vocab = 0, first = 0;
    int ranks = 1, chunks = 1;
    float2* own = nullptr;        // [rows]: the largest logit here, and the label's
    const float2* all = nullptr;  // [ranks][rows]
    float* sums = nullptr;  // [chunks][rows] of exponentials; then in the first row the whole's
    FloatRows gradient;     // or no data
    float* loss = nullptr;
    float scale = 1;
};

// The label's logit is -inf where another rank has it.
__global__ void __launch_bounds__(kThreads) largest_kernel(const LossRows io) {
    using Warps = float[kThreads / kWarpSize];
    FUCINA_SHARED(Warps, warps);
    const int64_t row = blockIdx.x;
    const float* logits = io.logits.row(row);
    float largest = logits[0];
    for (int64_t c = threadIdx.x; c < io.vocab; c += kThreads) largest = fmaxf(largest, logits[c]);
    largest = warp_max(largest);
    if (threadIdx.x % kWarpSize == 0) warps[threadIdx.x / kWarpSize] = largest;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (const float value : warps) largest = fmaxf(largest, value);
    const int64_t label = io.labels[row], column = label - io.first;
    float target = -INFINITY;
    if (column >= 0 && column < io.vocab) target = logits[column];
    if (label < 0 || label >= io.vocab * io.ranks) target = NAN;
    io.own[row] = label == kIgnoreLabel ? float2{0, 0} : float2{largest, target};
}

__device__ __forceinline__ float2 largest_of(const LossRows& io, int64_t row) {
    float2 most = io.all[row];
    for (int rank = 1; rank < io.ranks; ++rank) {
        const float2 other = io.all[rank * io.rows + row];
        most = {fmaxf(most.x, other.x), fmaxf(most.y, other.y)};
    }
    return most;
}

// blockIdx: x counts rows, y chunks. A lane of the CPU's adds what it has of a block, then its
// blocks; here sixteen threads make a block.
__global__ void __launch_bounds__(kThreads) sum_kernel(const LossRows io) {
    using Parts = float[kRuns][kLanes];
    FUCINA_SHARED(Parts, parts);
    const int64_t row = blockIdx.x, count = io.vocab / io.chunks;
    const float* logits = io.logits.row(row) + blockIdx.y * count;
    const float shift = largest_of(io, row).x;
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int run = static_cast<int>(threadIdx.x) / kLanes;
    float total = 0;
    for (int64_t begin = 0; begin < count; begin += kRuns * kSumBlock) {
        const int64_t first = begin + run * kSumBlock;
        const int64_t last = first + kSumBlock < count ? first + kSumBlock : count;
        float part = 0;
        for (int64_t c = first + lane; c < last; c += kLanes)
            part += exponential(logits[c] - shift);
        __syncthreads();
        parts[run][lane] = part;
        __syncthreads();
        for (int i = 0; i < kRuns && begin + i * kSumBlock < count; ++i) total += parts[i][lane];
    }
    total = sum_of_16(total);
    if (threadIdx.x == 0) io.sums[blockIdx.y * io.rows + row] = total;
}

// The first row becomes the sum of all `count` along the tree; those that wait lie in the rows
// before.
__global__ void __launch_bounds__(kThreads) tree_kernel(float* sums, int64_t rows, int count) {
    const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (row >= rows) return;
    float* top = sums + row;
    for (int i = 0; i < count; ++i, top += rows) {
        float sum = sums[i * rows + row];
        for (int merges = merges_after_leaf(i, count); merges > 0; --merges) {
            top -= rows;
            sum = *top + sum;
        }
        *top = sum;
    }
}

__global__ void __launch_bounds__(kThreads) finish_kernel(const LossRows io) {
    const int64_t row = blockIdx.x, label = io.labels[row], column = label - io.first;
    const bool ignored = label == kIgnoreLabel;
    const float2 most = largest_of(io, row);
    const float sum = io.sums[row], share = 1.0f / sum;
    if (threadIdx.x == 0)
        io.loss[row] =
            ignored
                ? 0.0f
                : static_cast<float>(logarithm(double{sum}) - (double{most.y} - double{most.x}));
    if (io.gradient.data == nullptr) return;
    for (int64_t c = threadIdx.x; c < io.vocab; c += kThreads) {
        const float p = exponential(io.logits.row(row)[c] - most.x) * share;
        const float gradient = (c == column ? p - 1.0f : p) * io.scale;
        io.gradient.store<1>(row, c, {ignored ? 0.0f : gradient});
    }
}

// Of all ranks, one after the other.
Tensor gathered(const Exec& exec, const ops::HeadLoss& io, const Tensor& own) {
    if (io.ranks == 1) return own;
    const Tensor all = exec.empty({io.ranks * own.rows(), own.row_size()}, DType::f32);
    exec.wait();
    io.gather(own, all);
    return all;
}

void add_rows(const Exec& exec, const Tensor& sums) {
    launch(tree_kernel,
           {.grid = blocks_of(sums.row_size(), kThreads),
            .block = dim3(kThreads),
            .stream = exec.stream},
           sums.data<float>(), sums.row_size(), static_cast<int>(sums.rows()));
}

}  // namespace

void row_losses(const Exec& exec, const ops::HeadLoss& io, int64_t first, const Tensor& logits,
                const Tensor& d_logits) {
    const int64_t rows = logits.rows();
    const Tensor largest = exec.empty({rows, 2}, DType::f32);
    const Tensor sums = exec.empty({io.chunks, rows}, DType::f32);
    LossRows pass{.logits = logits,
                  .labels = io.labels.data<int32_t>() + first,
                  .rows = rows,
                  .vocab = io.head.n,
                  .first = io.first,
                  .ranks = io.ranks,
                  .chunks = static_cast<int>(io.chunks),
                  .own = reinterpret_cast<float2*>(largest.data<float>()),
                  .sums = sums.data<float>(),
                  .gradient = d_logits,
                  .loss = io.loss.data<float>() + first,
                  .scale = io.scale};
    LaunchConfig config{
        .grid = dim3(static_cast<unsigned>(rows)), .block = dim3(kThreads), .stream = exec.stream};
    launch(largest_kernel, config, pass);
    const Tensor all = gathered(exec, io, largest);
    pass.all = reinterpret_cast<const float2*>(all.data<float>());
    config.grid.y = static_cast<unsigned>(io.chunks);
    launch(sum_kernel, config, pass);
    config.grid.y = 1;
    add_rows(exec, sums);
    const Tensor all_sums = gathered(exec, io, sums.slice(0, 1).view({rows}));
    if (io.ranks > 1) add_rows(exec, all_sums.view({io.ranks, rows}));
    pass.sums = all_sums.data<float>();
    launch(finish_kernel, config, pass);
}

}  // namespace fucina::cuda
