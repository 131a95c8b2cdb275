#include "kernels/cpu/grid_kernels.h"
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

// fp64 holds every product exactly; the conversion rounds to nearest, ties to even.
template <bool kAdds>
bool to_grid(const float* x, float bound, int64_t count, int64_t* sum) {
    bool inside = true;
    int64_t i = 0;
#if defined(__AVX512DQ__)
    const __m512d scale = _mm512_set1_pd(0x1p54), most = _mm512_set1_pd(bound);
    __mmask8 all = 0xff;
    for (; i + 8 <= count; i += 8) {
        const __m512d value = _mm512_cvtps_pd(_mm256_loadu_ps(x + i));
        all &= _mm512_cmp_pd_mask(_mm512_abs_pd(value), most, _CMP_LT_OQ);
        __m512i grid = _mm512_cvtpd_epi64(_mm512_mul_pd(value, scale));
        if (kAdds) grid = _mm512_add_epi64(grid, _mm512_loadu_si512(sum + i));
        _mm512_storeu_si512(sum + i, grid);
    }
    inside = all == 0xff;
#endif
    for (; i < count; ++i) {
        inside = inside && __builtin_fabsf(x[i]) < bound;
        const int64_t grid = _mm_cvtsd_si64(_mm_set_sd(double{x[i]} * 0x1p54));
        // Of what is outside the sum wraps around, as it may.
        sum[i] =
            kAdds
                ? static_cast<int64_t>(static_cast<uint64_t>(sum[i]) + static_cast<uint64_t>(grid))
                : grid;
    }
    return inside;
}

void add_integers(const int64_t* x, int64_t count, int64_t* y) {
    for (int64_t i = 0; i < count; ++i)
        y[i] = static_cast<int64_t>(static_cast<uint64_t>(y[i]) + static_cast<uint64_t>(x[i]));
}

void round(const int64_t* sum, int64_t count, float* out) {
    int64_t i = 0;
#if defined(__AVX512DQ__)
    const __m256 step = _mm256_set1_ps(0x1p-54f);
    for (; i + 8 <= count; i += 8) {
        const __m256 value = _mm512_cvtepi64_ps(_mm512_loadu_si512(sum + i));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(value, step));
    }
#endif
    for (; i < count; ++i) out[i] = static_cast<float>(sum[i]) * 0x1p-54f;
}

}  // namespace

extern const GridKernels kGridKernels = {to_grid<false>, to_grid<true>, add_integers, round};

}  // namespace fucina::cpu::FUCINA_ISA
