// RMSNorm, with the CPU's bits: a row's sums are 64 chains, of every 64th element, and a tree. Each
// lane has kPack chains and 64 / kPack lanes have a row, which is read twice.
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/norm.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChains = 64;

// kPack elements from column c on, zeros beyond the row.
template <int kPack, bool kWhole, class T>
__device__ __forceinline__ Pack<float, kPack> read(const T* row, int64_t c, int64_t width) {
    Pack<float, kPack> values;
    if constexpr (kWhole) {
        const Pack<T, kPack> stored = load<kPack>(row + c);
        for (int i = 0; i < kPack; ++i) values.at[i] = to_float(stored.at[i]);
    } else {
        for (int i = 0; i < kPack; ++i) values.at[i] = c + i < width ? to_float(row[c + i]) : 0.0f;
    }
    return values;
}

template <int kPack, bool kWhole, class T>
__device__ __forceinline__ void write(T* row, int64_t c, int64_t width,
                                      const Pack<float, kPack>& values) {
    Pack<T, kPack> stored;
    for (int i = 0; i < kPack; ++i) stored.at[i] = from_float<T>(values.at[i]);
    if constexpr (kWhole)
        store(row + c, stored);
    else
        for (int i = 0; i < kPack && c + i < width; ++i) row[c + i] = stored.at[i];
}

template <class T>
__device__ __forceinline__ float rounded(float value) {
    return to_float(from_float<T>(value));
}

// Over the lanes of a row, in all of them: chains 16 and 32 apart, then the tree of
// kernels/cpu/simd.h.
template <int kPack>
__device__ __forceinline__ float sum_of_chains(Pack<float, kPack>& chains) {
    for (const int distance : {16, 32, 8, 4, 2, 1}) {
        for (int i = 0; i < kPack && distance >= kPack; ++i)
            chains.at[i] += __shfl_xor_sync(kAllLanes, chains.at[i], distance / kPack);
        for (int i = 0; i < distance && distance < kPack; ++i)
            chains.at[i] += chains.at[i + distance];
    }
    return chains.at[0];
}

// Of a thread: its row, and the first of its columns.
template <int kPack>
struct Lane {
    static constexpr int kRows = kThreads * kPack / kChains;  // of a block
    const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x * kPack / kChains;
    const int first = static_cast<int>(threadIdx.x) * kPack % kChains;
    // Lanes without a row take part in the sums of the others' warp.
    __device__ __forceinline__ int64_t width(int64_t rows, int64_t of_row) const {
        return row < rows ? of_row : 0;
    }
};

template <class T>
struct Forward {
    Matrix<const T> x, residual;  // residual.data may be null
    Matrix<T> sum, y;
    const float* w = nullptr;
    float* rstd = nullptr;  // may be null
    int64_t rows = 0, width = 0;
    float eps = 0;
};

template <class T, int kPack, bool kWhole>
__global__ void __launch_bounds__(kThreads) forward_kernel(const Forward<T> io) {
    const Lane<kPack> lane;
    const int64_t width = lane.width(io.rows, io.width);
    const bool adds = io.residual.data != nullptr;
    Pack<float, kPack> squares{};
    for (int64_t c = lane.first; c < width; c += kChains) {
        auto values = read<kPack, kWhole>(io.x.row(lane.row), c, width);
        if (adds) {
            const auto other = read<kPack, kWhole>(io.residual.row(lane.row), c, width);
            for (int i = 0; i < kPack; ++i) values.at[i] = rounded<T>(values.at[i] + other.at[i]);
            write<kPack, kWhole>(io.sum.row(lane.row), c, width, values);
        }
        for (int i = 0; i < kPack; ++i)
            squares.at[i] = fmaf(values.at[i], values.at[i], squares.at[i]);
    }
    const float mean = sum_of_chains<kPack>(squares) / static_cast<float>(io.width);
    const float rstd = 1.0f / sqrtf(mean + io.eps);
    if (width == 0) return;
    if (lane.first == 0 && io.rstd != nullptr) io.rstd[lane.row] = rstd;
    // Each thread reads back what it stored itself.
    const T* const normed = adds ? io.sum.row(lane.row) : io.x.row(lane.row);
    for (int64_t c = lane.first; c < width; c += kChains) {
        auto values = read<kPack, kWhole>(normed, c, width);
        const auto w = read<kPack, kWhole>(io.w, c, width);
        for (int i = 0; i < kPack; ++i) values.at[i] = rounded<T>(values.at[i] * rstd) * w.at[i];
        write<kPack, kWhole>(io.y.row(lane.row), c, width, values);
    }
}

template <class T>
struct Backward {
    Matrix<const T> dy, x, residual_grad;  // residual_grad.data may be null
    const float* w = nullptr;
    const float* rstd = nullptr;
    Matrix<T> dx;
    int64_t rows = 0, width = 0;
};

// dx = rstd · (g - n · mean(g · n)) + residual_grad, where g = dy · w and n = x · rstd.
template <class T, int kPack, bool kWhole>
__global__ void __launch_bounds__(kThreads) backward_kernel(const Backward<T> io) {
    const Lane<kPack> lane;
    const int64_t width = lane.width(io.rows, io.width);
    const float rstd = width > 0 ? io.rstd[lane.row] : 0.0f;
    const auto operands = [&](int64_t c, Pack<float, kPack>& grad, Pack<float, kPack>& normed) {
        grad = read<kPack, kWhole>(io.dy.row(lane.row), c, width);
        normed = read<kPack, kWhole>(io.x.row(lane.row), c, width);
        const auto w = read<kPack, kWhole>(io.w, c, width);
        for (int i = 0; i < kPack; ++i) {
            grad.at[i] *= w.at[i];
            normed.at[i] *= rstd;
        }
    };
    Pack<float, kPack> dot{}, grad, normed;
    for (int64_t c = lane.first; c < width; c += kChains) {
        operands(c, grad, normed);
        for (int i = 0; i < kPack; ++i) dot.at[i] = fmaf(grad.at[i], normed.at[i], dot.at[i]);
    }
    const float mean = sum_of_chains<kPack>(dot) / static_cast<float>(io.width);
    for (int64_t c = lane.first; c < width; c += kChains) {
        operands(c, grad, normed);
        Pack<float, kPack> dx{};
        if (io.residual_grad.data != nullptr)
            dx = read<kPack, kWhole>(io.residual_grad.row(lane.row), c, width);
        for (int i = 0; i < kPack; ++i) {
            const float own = rstd * (grad.at[i] - normed.at[i] * mean);
            dx.at[i] = io.residual_grad.data != nullptr ? dx.at[i] + own : own;
        }
        write<kPack, kWhole>(io.dx.row(lane.row), c, width, dx);
    }
}

// One leaf of dw and the merges that follow it. partials is a stack of [D] sums with `depth` rows
// in use; the leaf's sum, merged, is stored at row depth - merges.
template <class T>
struct WeightLeaf {
    Matrix<const T> dy, x;
    const float* rstd = nullptr;
    int64_t begin = 0, end = 0;  // rows
    float* partials = nullptr;
    int depth = 0, merges = 0;
    int64_t width = 0;
};

template <class T>
__global__ void __launch_bounds__(kThreads) weight_leaf_kernel(const WeightLeaf<T> io) {
    const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (c >= io.width) return;
    float sum = 0;
    for (int64_t row = io.begin; row < io.end; ++row) {
        const float normed = rounded<T>(to_float(io.x.row(row)[c]) * io.rstd[row]);
        sum = fmaf(to_float(io.dy.row(row)[c]), normed, sum);
    }
    int slot = io.depth;
    for (int merge = 0; merge < io.merges; ++merge) {
        --slot;
        sum = io.partials[slot * io.width + c] + sum;
    }
    io.partials[slot * io.width + c] = sum;
}

__global__ void __launch_bounds__(kThreads)
    copy_kernel(const float* from, float* to, int64_t width) {
    const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (c < width) to[c] = from != nullptr ? from[c] : 0.0f;
}

template <int kPack>
LaunchConfig of_rows(int64_t rows, Stream stream) {
    return {.grid = blocks_of(rows, Lane<kPack>::kRows), .block = dim3(kThreads), .stream = stream};
}

template <class T>
void run_forward(const ops::RmsNorm& in, Stream stream) {
    const int64_t rows = in.x.rows(), width = in.x.row_size();
    if (rows == 0) return;
    const Forward<T> io{.x = in.x,
                        .residual = in.residual,
                        .sum = in.sum,
                        .y = in.y,
                        .w = in.w.data<float>(),
                        .rstd = in.rstd.defined() ? in.rstd.data<float>() : nullptr,
                        .rows = rows,
                        .width = width,
                        .eps = in.eps};
    constexpr int kPack = 16 / sizeof(T);
    const bool whole = packs<kPack>(width, io.x, io.residual, io.sum, io.y) &&
                       aligned(io.w, kPack * sizeof(float));
    launch(whole ? forward_kernel<T, kPack, true> : forward_kernel<T, kPack, false>,
           of_rows<kPack>(rows, stream), io);
}

template <class T>
void run_weight_grad(const ops::RmsNormBackward& in, const Tensor& partials, Stream stream) {
    const int64_t width = in.x.row_size();
    const LaunchConfig config{
        .grid = blocks_of(width, kThreads), .block = dim3(kThreads), .stream = stream};
    int depth = 0;
    for (size_t leaf = 0; leaf < in.tree.merges.size(); ++leaf) {
        launch(weight_leaf_kernel<T>, config,
               WeightLeaf<T>{.dy = in.dy,
                             .x = in.x,
                             .rstd = in.rstd.data<float>(),
                             .begin = in.tree.offsets[leaf],
                             .end = in.tree.offsets[leaf + 1],
                             .partials = partials.data<float>(),
                             .depth = depth,
                             .merges = in.tree.merges[leaf],
                             .width = width});
        depth += 1 - in.tree.merges[leaf];
    }
    launch(copy_kernel, config, depth > 0 ? partials.data<float>() : nullptr, in.dw.data<float>(),
           width);
}

template <class T>
void run_backward(const ops::RmsNormBackward& in, const Tensor& partials, Stream stream) {
    const int64_t rows = in.x.rows(), width = in.x.row_size();
    // dw first: dx may alias what nobody reads any more, but never dy or x.
    if (in.dw.defined()) run_weight_grad<T>(in, partials, stream);
    if (rows == 0) return;
    const Backward<T> io{.dy = in.dy,
                         .x = in.x,
                         .residual_grad = in.residual_grad,
                         .w = in.w.data<float>(),
                         .rstd = in.rstd.data<float>(),
                         .dx = in.dx,
                         .rows = rows,
                         .width = width};
    constexpr int kPack = 16 / sizeof(T);
    const bool whole = packs<kPack>(width, io.dy, io.x, io.residual_grad, io.dx) &&
                       aligned(io.w, kPack * sizeof(float));
    launch(whole ? backward_kernel<T, kPack, true> : backward_kernel<T, kPack, false>,
           of_rows<kPack>(rows, stream), io);
}

// Rows of partial sums that a tree needs at a time.
int64_t depth_of(const LeafTree& tree) {
    int64_t depth = 0, most = 0;
    for (const int merges : tree.merges) {
        most = depth + 1 > most ? depth + 1 : most;
        depth += 1 - merges;
    }
    return most;
}

}  // namespace

void rmsnorm(const Exec& exec, const ops::RmsNorm& io) {
    io.x.dtype() == DType::bf16 ? run_forward<__nv_bfloat16>(io, exec.stream)
                                : run_forward<float>(io, exec.stream);
}

void rmsnorm_backward(const Exec& exec, const ops::RmsNormBackward& io) {
    const Tensor partials =
        io.dw.defined() ? exec.empty({depth_of(io.tree), io.x.row_size()}, DType::f32) : Tensor();
    io.x.dtype() == DType::bf16 ? run_backward<__nv_bfloat16>(io, partials, exec.stream)
                                : run_backward<float>(io, partials, exec.stream);
}

}  // namespace fucina::cuda
