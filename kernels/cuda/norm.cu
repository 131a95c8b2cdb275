// RMSNorm: one block a row. A row is read twice, the second time from L1.
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/norm.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumnThreads = 128;

template <class T>
struct Forward {
    Matrix<const T> x, residual;  // residual.data may be null
    Matrix<T> sum, y;
    const float* w = nullptr;
    float* rstd = nullptr;  // may be null
    int64_t width = 0;
    float eps = 0;
};

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) forward_kernel(const Forward<T> io) {
    const int64_t row = blockIdx.x;
    const T* x = io.x.row(row);
    float squares = 0;
    for (int64_t c = threadIdx.x * kPack; c < io.width; c += kThreads * kPack) {
        Pack<T, kPack> values = load<kPack>(x + c);
        if (io.residual.data != nullptr) {
            const Pack<T, kPack> other = load<kPack>(io.residual.row(row) + c);
            for (int i = 0; i < kPack; ++i)
                values.at[i] = from_float<T>(to_float(values.at[i]) + to_float(other.at[i]));
            store(io.sum.row(row) + c, values);
        }
        for (int i = 0; i < kPack; ++i) {
            const float value = to_float(values.at[i]);
            squares = fmaf(value, value, squares);
        }
    }
    const float mean = block_sum<kThreads>(squares) / static_cast<float>(io.width);
    const float rstd = 1.0f / sqrtf(mean + io.eps);
    if (threadIdx.x == 0 && io.rstd != nullptr) io.rstd[row] = rstd;
    // Each thread reads back what it stored itself.
    const T* normed = io.residual.data != nullptr ? io.sum.row(row) : x;
    for (int64_t c = threadIdx.x * kPack; c < io.width; c += kThreads * kPack) {
        Pack<T, kPack> values = load<kPack>(normed + c);
        const Pack<float, kPack> w = load<kPack>(io.w + c);
        for (int i = 0; i < kPack; ++i) {
            const float rounded = to_float(from_float<T>(to_float(values.at[i]) * rstd));
            values.at[i] = from_float<T>(w.at[i] * rounded);
        }
        store(io.y.row(row) + c, values);
    }
}

template <class T>
struct Backward {
    Matrix<const T> dy, x, residual_grad;  // residual_grad.data may be null
    const float* w = nullptr;
    const float* rstd = nullptr;
    Matrix<T> dx;
    int64_t width = 0;
};

// dx = rstd · (g - n · mean(g · n)) + residual_grad, where g = dy · w and n = x · rstd.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) backward_kernel(const Backward<T> io) {
    const int64_t row = blockIdx.x;
    const T *dy = io.dy.row(row), *x = io.x.row(row);
    const float rstd = io.rstd[row];
    float dot = 0;
    for (int64_t c = threadIdx.x * kPack; c < io.width; c += kThreads * kPack) {
        const Pack<T, kPack> grad = load<kPack>(dy + c), values = load<kPack>(x + c);
        const Pack<float, kPack> w = load<kPack>(io.w + c);
        for (int i = 0; i < kPack; ++i)
            dot = fmaf(to_float(grad.at[i]) * w.at[i], to_float(values.at[i]) * rstd, dot);
    }
    const float mean = block_sum<kThreads>(dot) / static_cast<float>(io.width);
    for (int64_t c = threadIdx.x * kPack; c < io.width; c += kThreads * kPack) {
        const Pack<T, kPack> grad = load<kPack>(dy + c), values = load<kPack>(x + c);
        const Pack<float, kPack> w = load<kPack>(io.w + c);
        Pack<T, kPack> out;
        if (io.residual_grad.data != nullptr) out = load<kPack>(io.residual_grad.row(row) + c);
        for (int i = 0; i < kPack; ++i) {
            const float normed = to_float(values.at[i]) * rstd;
            const float own = rstd * (to_float(grad.at[i]) * w.at[i] - normed * mean);
            const float other = io.residual_grad.data != nullptr ? to_float(out.at[i]) : 0.0f;
            out.at[i] = from_float<T>(own + other);
        }
        store(io.dx.row(row) + c, out);
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
__global__ void __launch_bounds__(kColumnThreads) weight_leaf_kernel(const WeightLeaf<T> io) {
    const int64_t c = int64_t{blockIdx.x} * kColumnThreads + threadIdx.x;
    if (c >= io.width) return;
    float sum = 0;
    for (int64_t row = io.begin; row < io.end; ++row) {
        const float normed = to_float(from_float<T>(to_float(io.x.row(row)[c]) * io.rstd[row]));
        sum += to_float(io.dy.row(row)[c]) * normed;
    }
    int slot = io.depth;
    for (int merge = 0; merge < io.merges; ++merge) {
        --slot;
        sum = io.partials[slot * io.width + c] + sum;
    }
    io.partials[slot * io.width + c] = sum;
}

__global__ void __launch_bounds__(kColumnThreads)
    copy_kernel(const float* from, float* to, int64_t width) {
    const int64_t c = int64_t{blockIdx.x} * kColumnThreads + threadIdx.x;
    if (c < width) to[c] = from != nullptr ? from[c] : 0.0f;
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
                        .width = width,
                        .eps = in.eps};
    constexpr int kPack = 16 / sizeof(T);
    const bool packed = packs<kPack>(width, io.x, io.residual, io.sum, io.y) &&
                        aligned(io.w, kPack * sizeof(float));
    launch(packed ? forward_kernel<T, kPack> : forward_kernel<T, 1>,
           {.grid = dim3(static_cast<unsigned>(rows)), .block = dim3(kThreads), .stream = stream},
           io);
}

template <class T>
void run_weight_grad(const ops::RmsNormBackward& in, const Tensor& partials, Stream stream) {
    const int64_t width = in.x.row_size();
    const LaunchConfig config{
        .grid = blocks_of(width, kColumnThreads), .block = dim3(kColumnThreads), .stream = stream};
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
                         .width = width};
    constexpr int kPack = 16 / sizeof(T);
    const bool packed = packs<kPack>(width, io.dy, io.x, io.residual_grad, io.dx) &&
                        aligned(io.w, kPack * sizeof(float));
    launch(packed ? backward_kernel<T, kPack> : backward_kernel<T, 1>,
           {.grid = dim3(static_cast<unsigned>(rows)), .block = dim3(kThreads), .stream = stream},
           io);
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
