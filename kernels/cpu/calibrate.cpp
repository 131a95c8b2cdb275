#include "kernels/calibrate.h"

#include <time.h>

#include <algorithm>
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

// Runs body, which says how much it did, until `seconds` have passed, the first time to warm up;
// the best of its rates, since some turns are cut by interrupts.
template <class Body>
double best_rate(double seconds, const Body& body) {
    body();
    double best = 0;
    const double begin = thread_seconds();
    for (double start = begin; start - begin < seconds;) {
        const double done = body(), end = thread_seconds();
        if (end > start) best = std::max(best, done / (end - start));
        start = end;
    }
    return best;
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

double peak_flops(DType operands, double seconds) {
    const cpu::GemmKernel& kernel = cpu::gemm_set(operands).kernel;
    constexpr int64_t kRepeats = 20000;  // some fifty microseconds: long beside the clock's grain
    return on_all_threads(
        [&] { return best_rate(seconds, [&] { return kernel.burst(kRepeats); }); });
}

double copy_bandwidth(double seconds) {
    constexpr int64_t kBytes = int64_t{32} << 20;  // beyond the caches of one core
    return on_all_threads([&] {
        std::vector<std::byte> from(kBytes), to(kBytes);
        return best_rate(seconds, [&] {
            std::memcpy(to.data(), from.data(), kBytes);
            return 2.0 * kBytes;
        });
    });
}

}  // namespace fucina
