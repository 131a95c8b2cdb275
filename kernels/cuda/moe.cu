// Rows to expert order and back: one warp a row for copies, one block a token for sums.
#include "kernels/cuda/moe.h"

#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/launch.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

struct Copy {
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    int64_t from_stride = 0, to_stride = 0;  // bytes between rows
    const int32_t* index = nullptr;
    int64_t rows = 0, units = 0;  // units of one row
    bool gather = false;          // index says where a row is from, not where to
};

template <class Unit>
__global__ void __launch_bounds__(kThreads) copy_kernel(const Copy io) {
    const int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
    if (i >= io.rows || io.index[i] < 0) return;
    const int64_t other = io.index[i];
    const auto* from =
        reinterpret_cast<const Unit*>(io.from + (io.gather ? other : i) * io.from_stride);
    auto* to = reinterpret_cast<Unit*>(io.to + (io.gather ? i : other) * io.to_stride);
    for (int64_t j = threadIdx.x % kWarpSize; j < io.units; j += kWarpSize) to[j] = from[j];
}

void copy_rows(const Tensor& x, const Tensor& index, const Tensor& out, bool gather,
               Stream stream) {
    FUCINA_CHECK(x.row_size() == out.row_size() && x.dtype() == out.dtype() && index.contiguous() &&
                     index.size() == (gather ? out : x).rows(),
                 "rows of ", x.describe(), " to ", out.describe(), " by ", index.describe());
    if (index.size() == 0) return;
    const int64_t element = size_of(x.dtype()), bytes = x.row_size() * element;
    Copy io{.from = x.raw(),
            .to = out.raw(),
            .from_stride = x.row_stride() * element,
            .to_stride = out.row_stride() * element,
            .index = index.data<int32_t>(),
            .rows = index.size(),
            .gather = gather};
    const auto fits = [&](int64_t unit) {
        return bytes % unit == 0 && io.from_stride % unit == 0 && io.to_stride % unit == 0 &&
               aligned(io.from, static_cast<size_t>(unit)) &&
               aligned(io.to, static_cast<size_t>(unit));
    };
    const int64_t unit = fits(16) ? 16 : fits(4) ? 4 : 1;
    io.units = bytes / unit;
    launch(unit == 16  ? copy_kernel<uint4>
           : unit == 4 ? copy_kernel<uint32_t>
                       : copy_kernel<uint8_t>,
           {.grid = blocks_of(io.rows, kWarps), .block = dim3(kThreads), .stream = stream}, io);
}

struct Sum {
    FloatRows slots, add1, add2, out;      // the addends' data may be null
    const float* weights = nullptr;        // or null for 1
    const int32_t* choice_slot = nullptr;  // [T, k]
    int64_t top_k = 0, width = 0;
};

template <int kPack>
__device__ __forceinline__ void add_row(Pack<float, kPack>& sum, const FloatRows& x, int64_t row,
                                        int64_t column) {
    if (x.data == nullptr) return;
    const Pack<float, kPack> values = x.load<kPack>(row, column);
    for (int i = 0; i < kPack; ++i) sum.at[i] += values.at[i];
}

template <int kPack>
__global__ void __launch_bounds__(kThreads) combine_kernel(const Sum io) {
    const int64_t token = blockIdx.x;
    for (int64_t c = threadIdx.x * kPack; c < io.width; c += kThreads * kPack) {
        Pack<float, kPack> sum;
        for (int i = 0; i < kPack; ++i) sum.at[i] = 0;
        for (int64_t choice = token * io.top_k; choice < (token + 1) * io.top_k; ++choice) {
            const int32_t slot = io.choice_slot[choice];
            if (slot < 0) continue;
            const float weight = io.weights != nullptr ? io.weights[choice] : 1.0f;
            const Pack<float, kPack> values = io.slots.load<kPack>(slot, c);
            for (int i = 0; i < kPack; ++i) sum.at[i] = fmaf(weight, values.at[i], sum.at[i]);
        }
        add_row(sum, io.add1, token, c);
        add_row(sum, io.add2, token, c);
        io.out.store(token, c, sum);
    }
}

void run_combine(const Sum& io, int64_t tokens, Stream stream) {
    if (tokens == 0 || io.width == 0) return;
    launch(packs<kFloatPack>(io.width, io.slots, io.add1, io.add2, io.out)
               ? combine_kernel<kFloatPack>
               : combine_kernel<1>,
           {.grid = dim3(static_cast<unsigned>(tokens)), .block = dim3(kThreads), .stream = stream},
           io);
}

// One block; a sum of integers has no order.
__global__ void __launch_bounds__(kThreads)
    bias_kernel(const int64_t* loads, float rate, float* bias, int64_t experts) {
    int64_t own = 0;
    for (int64_t e = threadIdx.x; e < experts; e += kThreads) own += loads[e];
    const int64_t total = block_prefix<kThreads>(own).total;
    for (int64_t e = threadIdx.x; e < experts; e += kThreads) {
        const int64_t load = loads[e] * experts;  // against total / E, in integers
        if (load < total) bias[e] += rate;
        if (load > total) bias[e] -= rate;
    }
}

}  // namespace

void gather_rows(const Exec& exec, const Tensor& x, const Tensor& index, const Tensor& out) {
    copy_rows(x, index, out, true, exec.stream);
}

void scatter_rows(const Exec& exec, const Tensor& x, const Tensor& index, const Tensor& out) {
    copy_rows(x, index, out, false, exec.stream);
}

void combine(const Exec& exec, const ops::Combine& io, const TokenMap& map) {
    const Tensor& choice_slot = map.choice_slot;
    const int64_t tokens = io.out.rows();
    FUCINA_CHECK((tokens == 0 || choice_slot.size() % tokens == 0) &&
                     (!io.weights.defined() ||
                      (io.weights.contiguous() && io.weights.size() == choice_slot.size())),
                 "combine of ", io.slots.describe(), ", ", choice_slot.describe(), " choices, to ",
                 io.out.describe());
    run_combine({.slots = io.slots,
                 .add1 = io.add1,
                 .add2 = io.add2,
                 .out = io.out,
                 .weights = io.weights.data_or_null<float>(),
                 .choice_slot = choice_slot.data<int32_t>(),
                 .top_k = tokens == 0 ? 0 : choice_slot.size() / tokens,
                 .width = io.out.row_size()},
                tokens, exec.stream);
}

void add(const Exec& exec, const Tensor& a, const Tensor& b, const Tensor& out) {
    run_combine({.add1 = a, .add2 = b, .out = out, .width = out.row_size()}, out.rows(),
                exec.stream);
}

void update_router_bias(const Exec& exec, std::span<const int64_t> loads, float rate,
                        const Tensor& bias) {
    const Tensor values = tensor_of(exec, loads);
    launch(bias_kernel, {.grid = dim3(1), .block = dim3(kThreads), .stream = exec.stream},
           values.data<int64_t>(), rate, bias.data<float>(), bias.size());
}

}  // namespace fucina::cuda
