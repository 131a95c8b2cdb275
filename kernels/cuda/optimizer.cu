// AdamW: one thread a pack of elements. Sum of squares: one warp a block, one lane a chain.
#include "kernels/cuda/optimizer.h"

#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/gemm.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int64_t kSquaresBlock = 512;
static_assert(kWarpSize == 32, "the contract has 32 chains");

struct Update {
    FloatRows w, grad, m, v;  // of one row
    int64_t count = 0;
    float grad_scale = 1, decay = 1, rate = 0, inverse_root = 1, eps = 0, beta1 = 0, beta2 = 0;
};

template <int kPack>
__global__ void __launch_bounds__(kThreads) adamw_kernel(const Update io) {
    const int64_t j = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
    if (j >= io.count) return;
    const Pack<float, kPack> grad = io.grad.load<kPack>(0, j);
    Pack<float, kPack> w = io.w.load<kPack>(0, j), m = io.m.load<kPack>(0, j);
    Pack<float, kPack> v = io.v.load<kPack>(0, j);
    for (int i = 0; i < kPack; ++i) {
        const float g = grad.at[i] * io.grad_scale;
        m.at[i] = fmaf(io.beta1, m.at[i], (1.0f - io.beta1) * g);
        v.at[i] = fmaf(io.beta2, v.at[i], (1.0f - io.beta2) * g * g);
        const float update = m.at[i] / fmaf(sqrtf(v.at[i]), io.inverse_root, io.eps);
        w.at[i] = fmaf(-io.rate, update, w.at[i] * io.decay);
    }
    io.w.store(0, j, w);
    io.m.store(0, j, m);
    io.v.store(0, j, v);
}

struct Squares {
    const float* x = nullptr;
    double* sums = nullptr;
    int64_t blocks = 0, part = 0, blocks_a_part = 0;
};

__global__ void __launch_bounds__(kThreads) squares_kernel(const Squares io) {
    const int64_t block = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
    if (block >= io.blocks) return;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t begin = block % io.blocks_a_part * kSquaresBlock;
    const int64_t end = begin + kSquaresBlock < io.part ? begin + kSquaresBlock : io.part;
    const float* const x = io.x + block / io.blocks_a_part * io.part;
    double chain = 0, total = 0;
    for (int64_t j = begin + lane; j < end; j += kWarpSize)
        chain += static_cast<double>(x[j]) * static_cast<double>(x[j]);
    for (int other = 0; other < kWarpSize; ++other) total += __shfl_sync(kAllLanes, chain, other);
    if (lane == 0) io.sums[block] = total;
}

}  // namespace

void adamw(const Exec& exec, const AdamW& step, const Tensor& w, const Tensor& grad,
           const Tensor& m, const Tensor& v, PackedCopies* copies) {
    const int64_t count = w.size();
    if (count == 0) return;
    const auto row = [&](const Tensor& x) { return x.view({1, count}); };
    const Update io{.w = row(w),
                    .grad = row(grad),
                    .m = row(m),
                    .v = row(v),
                    .count = count,
                    .grad_scale = step.grad_scale,
                    .decay = step.decay(),
                    .rate = step.rate(),
                    .inverse_root = step.inverse_root(),
                    .eps = step.eps,
                    .beta1 = step.beta1,
                    .beta2 = step.beta2};
    const bool packed = packs<kFloatPack>(count, io.w, io.grad, io.m, io.v);
    launch(packed ? adamw_kernel<kFloatPack> : adamw_kernel<1>,
           {.grid = blocks_of(count, kThreads * (packed ? kFloatPack : 1)),
            .block = dim3(kThreads),
            .stream = exec.stream},
           io);
    if (copies == nullptr || !copies->defined()) return;
    PackedWeight &forward = copies->forward, &dgrad = copies->dgrad;
    forward = pack(exec, w, copies->kind, forward.dtype, std::move(forward));
    if (dgrad.defined()) dgrad = pack(exec, w, PackKind::dgrad, dgrad.dtype, std::move(dgrad));
}

ExactSum sum_of_squares(const Exec& exec, const Tensor& x, int64_t chunks) {
    ExactSum total;
    if (x.size() == 0) return total;
    const int64_t part = x.dim(x.rank() - 1) / chunks;
    const int64_t blocks_a_part = (part + kSquaresBlock - 1) / kSquaresBlock;
    const int64_t blocks = x.size() / part * blocks_a_part;
    const Tensor sums = exec.empty({blocks}, DType::f64);
    launch(squares_kernel,
           {.grid = blocks_of(blocks, kWarps), .block = dim3(kThreads), .stream = exec.stream},
           Squares{.x = x.data<float>(),
                   .sums = sums.data<double>(),
                   .blocks = blocks,
                   .part = part,
                   .blocks_a_part = blocks_a_part});
    const HostValues<double> values(exec, sums);
    for (const double sum : values.span()) total.add(sum);
    return total;
}

ExactSum exact_sum(const Exec& exec, const Tensor& x) {
    ExactSum total;
    const HostValues<float> values(exec, x);
    for (const float value : values.span()) total.add(value);
    return total;
}

}  // namespace fucina::cuda
