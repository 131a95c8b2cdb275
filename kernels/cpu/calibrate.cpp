#include "kernels/calibrate.h"

#include <time.h>

#include <cstring>
#include <vector>

#include "kernels/cpu/gemm_select.h"
#include "kernels/parallel_for.h"
#include "kernels/tensor.h"

namespace fucina {
namespace {

double thread_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Runs body until `seconds` have passed, the first time to warm up; runs per second.
template <class Body>
double rate(double seconds, const Body& body) {
    body();
    const double begin = thread_seconds();
    double passed = 0;
    int64_t runs = 0;
    while (passed < seconds) {
        body();
        ++runs;
        passed = thread_seconds() - begin;
    }
    return static_cast<double>(runs) / passed;
}

double block_flops(DType operands, double seconds) {
    constexpr int64_t kDepth = 128;  // both operands fit in any L1
    constexpr int kRepeat = 32;
    const cpu::GemmSet set = cpu::gemm_set(operands);
    const Tensor a = Tensor::zeros({set.a_bytes(kDepth)}, DType::u8);
    const Tensor b = Tensor::zeros({set.b_bytes(kDepth)}, DType::u8);
    const Tensor c = Tensor::zeros({cpu::kBlock * cpu::kBlock}, DType::f32);
    const double runs = rate(seconds, [&] {
        for (int i = 0; i < kRepeat; ++i)
            set.kernel.multiply(a.raw(), b.raw(), kDepth, cpu::kBlock, true, c.data<float>());
    });
    return runs * kRepeat * 2.0 * cpu::kBlock * cpu::kBlock * kDepth;
}

double copy_bytes(double seconds) {
    constexpr int64_t kBytes = int64_t{32} << 20;  // beyond the caches of one core
    const Tensor from = Tensor::zeros({kBytes}, DType::u8), to = Tensor::zeros({kBytes}, DType::u8);
    return 2.0 * kBytes * rate(seconds, [&] { std::memcpy(to.raw(), from.raw(), kBytes); });
}

// Of all threads at once, each measured by its own clock.
template <class Measure>
double on_all_threads(const Measure& measure) {
    std::vector<double> rates(static_cast<size_t>(runtime().threads));
    parallel_for(runtime().threads, [&](int64_t i) { rates[static_cast<size_t>(i)] = measure(); });
    double sum = 0;
    for (const double r : rates) sum += r;
    return sum;
}

}  // namespace

MachinePeak calibrate(DType operands, double seconds) {
    return {.flops = on_all_threads([=] { return block_flops(operands, seconds); }),
            .bytes = on_all_threads([=] { return copy_bytes(seconds); })};
}

}  // namespace fucina
