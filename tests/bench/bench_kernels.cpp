// bench_kernels [PART OF A NAME]...: times the kernel cases of large shapes, at the level of
// FUCINA_ISA, on one thread in CPU time, so that other programs on the machine disturb little; with
// BENCH_THREADS=N on N threads, in wall time. Shares are of a peak that is measured just before
// each case.
#include <time.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/calibrate.h"
#include "kernels/runtime.h"
#include "tests/support/kernel_case.h"

namespace fucina::test {
namespace {

constexpr double kSeconds = 0.25;  // of repetitions per case; the best counts

double now() {
    timespec time{};
    clock_gettime(runtime().threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double best_seconds(const std::function<void()>& body) {
    body();
    double best = 1e30, all = 0;
    for (int runs = 0; runs < 3 || all < kSeconds; ++runs) {
        const double begin = now();
        body();
        const double passed = now() - begin;
        best = passed < best ? passed : best;
        all += passed;
    }
    return best;
}

void bench(const KernelCase& kernel) {
    DType operands = DType::f32;
    for (const Tensor& input : kernel.inputs)
        if (input.dtype() == DType::bf16) operands = DType::bf16;
    const std::function<void()> body = kernel.timed ? kernel.timed(kernel.inputs) : [&] {
        kernel.run(Version::fast, kernel.inputs);
    };
    const double peak = peak_flops(operands), bandwidth = copy_bandwidth();
    const double seconds = best_seconds(body);
    std::printf("%-76s %9.3f ms", kernel.name.c_str(), 1e3 * seconds);
    if (kernel.flops > 0)
        std::printf(" %8.1f GFLOP/s %3.0f %%", 1e-9 * kernel.flops / seconds,
                    100 * kernel.flops / seconds / peak);
    if (kernel.bytes > 0)
        std::printf(" %6.1f GB/s %3.0f %%", 1e-9 * kernel.bytes / seconds,
                    100 * kernel.bytes / seconds / bandwidth);
    std::printf("\n");
    std::fflush(stdout);
}

bool wanted(const std::string& name, int count, char** parts) {
    for (int i = 1; i < count; ++i)
        if (name.find(parts[i]) != std::string::npos) return true;
    return count == 1;
}

}  // namespace
}  // namespace fucina::test

int main(int count, char** parts) {
    using namespace fucina;
    const char* threads = std::getenv("BENCH_THREADS");
    set_runtime(threads == nullptr ? 1 : std::atoi(threads), Numerics::exact);
    std::printf("%s, %d threads\n", describe_runtime().c_str(), runtime().threads);
    for (const auto& make : test::all_cases().bench) {
        const test::KernelCase kernel = make();
        if (test::wanted(kernel.name, count, parts)) test::bench(kernel);
    }
    return 0;
}
