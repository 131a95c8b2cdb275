#include "tests/reference/rows.h"

namespace fucina::reference {
namespace {

[[gnu::always_inline]] inline void fma_loop(float a, const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = std::fma(a, x[i], y[i]);
}

[[gnu::target("avx2,fma")]] void fma_row_avx2(float a, const float* x, float* y, int64_t n) {
    fma_loop(a, x, y, n);
}

}  // namespace

void fma_row(float a, const float* x, float* y, int64_t n) {
    static const bool has_fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_fma)
        fma_row_avx2(a, x, y, n);
    else
        fma_loop(a, x, y, n);
}

}  // namespace fucina::reference
