// Sums on a grid on the CPU: ranges of elements in parallel.
#include "kernels/cpu/grid_sum.h"

#include <atomic>

#include "kernels/cpu/grid_kernels.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

constexpr int64_t kRange = 16384;  // elements of one unit of work

}  // namespace

bool to_grid(bool adds, const Tensor& sum, const Tensor& x, float bound) {
    const GridKernels& kernels = FUCINA_PICK(kGridKernels);
    std::atomic<bool> inside = true;
    parallel_ranges(x.size(), kRange, kRange, [&](int64_t begin, int64_t end) {
        const auto run = adds ? kernels.add : kernels.set;
        if (!run(x.data<float>() + begin, bound, end - begin, sum.data<int64_t>() + begin))
            inside = false;
    });
    return inside;
}

void add_integers(const Tensor& y, const Tensor& x) {
    const GridKernels& kernels = FUCINA_PICK(kGridKernels);
    parallel_ranges(x.size(), kRange, kRange, [&](int64_t begin, int64_t end) {
        kernels.add_integers(x.data<int64_t>() + begin, end - begin, y.data<int64_t>() + begin);
    });
}

void round_from_grid(const Tensor& sum, const Tensor& out) {
    const GridKernels& kernels = FUCINA_PICK(kGridKernels);
    parallel_ranges(sum.size(), kRange, kRange, [&](int64_t begin, int64_t end) {
        kernels.round(sum.data<int64_t>() + begin, end - begin, out.data<float>() + begin);
    });
}

}  // namespace fucina::cpu
