// Sums on a grid: one thread an element.
#include "kernels/cuda/grid_sum.h"

#include "kernels/cuda/device/launch.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256;

struct ToGrid {
    const float* x = nullptr;
    int64_t* sum = nullptr;
    int32_t* outside = nullptr;  // set to 1 by whoever finds such a value
    int64_t count = 0;
    float bound = 0;
    bool adds = false;
};

// fp64 holds every product exactly; the conversion rounds to nearest, ties to even.
__global__ void __launch_bounds__(kThreads) to_grid_kernel(const ToGrid io) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= io.count) return;
    const float value = io.x[i];
    if (!(fabsf(value) < io.bound)) {
        *io.outside = 1;
        return;
    }
    const int64_t grid = __double2ll_rn(static_cast<double>(value) * 0x1p54);
    // Beyond the range the sum wraps around, as it may.
    const uint64_t before = io.adds ? static_cast<uint64_t>(io.sum[i]) : 0;
    io.sum[i] = static_cast<int64_t>(before + static_cast<uint64_t>(grid));
}

__global__ void __launch_bounds__(kThreads)
    add_kernel(const int64_t* x, int64_t* y, int64_t count) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i < count)
        y[i] = static_cast<int64_t>(static_cast<uint64_t>(y[i]) + static_cast<uint64_t>(x[i]));
}

__global__ void __launch_bounds__(kThreads)
    round_kernel(const int64_t* sum, float* out, int64_t count) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i < count) out[i] = __ll2float_rn(sum[i]) * 0x1p-54f;
}

LaunchConfig of_elements(const Exec& exec, const Tensor& x) {
    return {.grid = blocks_of(x.size(), kThreads), .block = dim3(kThreads), .stream = exec.stream};
}

}  // namespace

bool to_grid(const Exec& exec, bool adds, const Tensor& sum, const Tensor& x, float bound) {
    if (x.size() == 0) return true;
    const Tensor outside = exec.zeros({1}, DType::i32);
    launch(to_grid_kernel, of_elements(exec, x),
           ToGrid{.x = x.data<float>(),
                  .sum = sum.data<int64_t>(),
                  .outside = outside.data<int32_t>(),
                  .count = x.size(),
                  .bound = bound,
                  .adds = adds});
    return HostValues<int32_t>(exec, outside)[0] == 0;
}

void add_integers(const Exec& exec, const Tensor& y, const Tensor& x) {
    if (x.size() == 0) return;
    launch(add_kernel, of_elements(exec, x), x.data<int64_t>(), y.data<int64_t>(), x.size());
}

void round_from_grid(const Exec& exec, const Tensor& sum, const Tensor& out) {
    if (sum.size() == 0) return;
    launch(round_kernel, of_elements(exec, sum), sum.data<int64_t>(), out.data<float>(),
           sum.size());
}

}  // namespace fucina::cuda
