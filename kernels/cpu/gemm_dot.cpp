// bf16 matrix products with VDPBF16PS (AVX512_BF16), for numerics::fast: twice the rate of fp32 FMA
// on AMD Zen 5, half of it on Intel. Each output is one chain over pairs of k, so it does not
// depend on the number of rows, their position or threads; the order within a pair is the
// instruction's.
//
// A is kept as pairs of bf16 in groups of 8 rows, [32/8][k/32][8][16 pairs]; transposed,
// [32/8][k/2][8 pairs].
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

constexpr int kGroup = 8;
constexpr int64_t kChunk = 512;  // of k: 32 columns of B and 8 rows of A fit in 48 KB of L1

FUCINA_INLINE __m512bh pairs_of(const uint16_t* p) {
    return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}
FUCINA_INLINE __m512bh repeat(const uint32_t* pair) {
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(*pair)));
}

// Pair (r, p) of A is a[r * RowStride + p * PairStride] within 32 consecutive k.
template <int R, int RowStride, int PairStride>
FUCINA_INLINE void add_pair(const uint32_t* a, const uint16_t* b, int64_t pair,
                            __m512 (&sum)[R][2]) {
    const __m512bh low = pairs_of(b + pair * 32), high = pairs_of(b + 512 + pair * 32);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const __m512bh left = repeat(a + r * RowStride + pair * PairStride);
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], left, low);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], left, high);
    }
}

// Loops over registers are unrolled, else gcc keeps them in memory.
template <int R>
FUCINA_INLINE void begin_sums(bool more, const float* c, __m512 (&sum)[R][2]) {
    if (more) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            sum[r][0] = _mm512_loadu_ps(c + r * kBlock);
            sum[r][1] = _mm512_loadu_ps(c + r * kBlock + kLanes);
        }
    } else {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    }
}
template <int R>
FUCINA_INLINE void end_sums(__m512 (&sum)[R][2], float* c, int merges) {
    for (; merges > 0; --merges) {
        c -= kPartialFloats;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            sum[r][0] = _mm512_add_ps(_mm512_loadu_ps(c + r * kBlock), sum[r][0]);
            sum[r][1] = _mm512_add_ps(_mm512_loadu_ps(c + r * kBlock + kLanes), sum[r][1]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        _mm512_storeu_ps(c + r * kBlock, sum[r][0]);
        _mm512_storeu_ps(c + r * kBlock + kLanes, sum[r][1]);
    }
}

template <int R, int RowStride, int PairStride>
void dot_rows(const uint32_t* a, const uint16_t* b, int64_t k, ChunkSums sums) {
    __m512 sum[R][2];
    begin_sums(sums.more, sums.c, sum);
    for (; k > 30; k -= 32, a += 16 * kGroup, b += 1024) {
#pragma GCC unroll 16
        for (int pair = 0; pair < 16; ++pair) add_pair<R, RowStride, PairStride>(a, b, pair, sum);
    }
    for (int64_t pair = 0; 2 * pair < k; ++pair)
        add_pair<R, RowStride, PairStride>(a, b, pair, sum);
    end_sums(sum, sums.c, sums.merges);
}

// `rows` <= Most rows.
template <int Most, int RowStride, int PairStride>
void some_rows(const uint32_t* a, const uint16_t* b, int64_t k, int rows, ChunkSums sums) {
    if constexpr (Most > 1) {
        if (rows < Most) return some_rows<Most - 1, RowStride, PairStride>(a, b, k, rows, sums);
    }
    dot_rows<Most, RowStride, PairStride>(a, b, k, sums);
}

template <int RowStride, int PairStride>
void multiply_chunk(const void* a, const void* b, int64_t k, int rows, ChunkSums sums) {
    const int64_t group_size = (k + 31) / 32 * 16 * kGroup;
    if (k == 0 && !sums.more)  // an empty leaf is a leaf of zeros
        for (int i = 0; i < rows * kBlock; i += kLanes) store(sums.c + i, zero());
    for (int64_t first = 0; first < k; first += kChunk) {
        const int64_t count = k - first < kChunk ? k - first : kChunk;
        for (int row = 0; row < rows; row += kGroup)
            some_rows<kGroup, RowStride, PairStride>(
                static_cast<const uint32_t*>(a) + row / kGroup * group_size + first / 2 * kGroup,
                static_cast<const uint16_t*>(b) + first * kBlock, count,
                rows - row < kGroup ? rows - row : kGroup,
                {sums.c + row * kBlock, first > 0 || sums.more,
                 first + count == k ? sums.merges : 0});
    }
}

template <int RowStride, int PairStride>
void multiply(const void* a, const void* b, int64_t k, int rows, bool accumulate, float* c) {
    multiply_chunk<RowStride, PairStride>(a, b, k, rows, {c, accumulate, 0});
}

// R rows and P panels, whose rows lie `panel` elements apart.
template <int R, int P>
void few_panels(const uint32_t* a, const uint16_t* b, int64_t panel, int64_t k, ChunkSums sums) {
    constexpr int64_t kAhead = 512;  // elements of B: what is asked for comes from memory
    __m512 sum[P][R][2];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) begin_sums(sums.more, sums.c + p * kBlock * kBlock, sum[p]);
    for (int64_t first = 0; first < k; first += 32, a += 16 * kGroup, b += 1024) {
        const int64_t pairs = k - first < 32 ? (k - first + 1) / 2 : 16;
        for (int64_t pair = 0; pair < pairs; ++pair) {
            __m512bh left[R];
            for (int r = 0; r < R; ++r) left[r] = repeat(a + r * 16 + pair);
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p)
                for (int j = 0; j < 2; ++j) {
                    const uint16_t* line = b + p * panel + j * 512 + pair * 32;
                    __builtin_prefetch(line + kAhead);
                    const __m512bh right = pairs_of(line);
                    for (int r = 0; r < R; ++r)
                        sum[p][r][j] = _mm512_dpbf16_ps(sum[p][r][j], left[r], right);
                }
        }
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) end_sums(sum[p], sums.c + p * kBlock * kBlock, sums.merges);
}

template <int R, int P>
void few_rows(const void* a, const PanelsOfB& in, int64_t k, ChunkSums sums) {
    const auto* left = static_cast<const uint32_t*>(a);
    const auto* b = static_cast<const uint16_t*>(in.data);
    const int64_t panel = in.stride / static_cast<int64_t>(sizeof(uint16_t));
    int panels = in.count;
    for (; panels >= P; panels -= P, b += P * panel, sums.c += P * kBlock * kBlock)
        few_panels<R, P>(left, b, panel, k, sums);
    for (; panels > 0; --panels, b += panel, sums.c += kBlock * kBlock)
        few_panels<R, 1>(left, b, panel, k, sums);
}

void multiply_few(const void* a, const PanelsOfB& b, int64_t k, int rows, ChunkSums sums) {
    if (rows == 1) return few_rows<1, 4>(a, b, k, sums);
    if (rows == 2) return few_rows<2, 4>(a, b, k, sums);
    if (rows == 3) return few_rows<3, 2>(a, b, k, sums);
    few_rows<4, 2>(a, b, k, sums);
}

void pack_a(const void* const* rows, int count, int64_t k, void* a) {
    const int64_t blocks = (k + 31) / 32;
    for (int row = 0; row < count; ++row) {
        const auto* in = static_cast<const uint16_t*>(rows[row]);
        auto* out =
            static_cast<uint16_t*>(a) + row / kGroup * blocks * 32 * kGroup + row % kGroup * 32;
        for (int64_t i = 0; i < k; i += 32, out += 32 * kGroup) {
            const int64_t left = k - i;
            const __mmask32 inside = left >= 32 ? ~0u : (1u << left) - 1;
            _mm512_storeu_si512(out, _mm512_maskz_loadu_epi16(inside, in + i));
        }
    }
}

// Columns 8 l + (0..3) of two token rows as pairs stand in 128-bit lane l of `low`, the four after
// them in that of `high`.
struct PairedRows {
    __m512i low, high;
};
FUCINA_INLINE PairedRows pair_rows(__m512i even, __m512i odd) {
    return {_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd)};
}

void pack_a_transposed(const TokenColumns& in, void* a) {
    const int64_t pair_count = (in.k + 31) / 32 * 16;
    const __mmask32 inside = in.columns >= 32 ? ~0u : (1u << in.columns) - 1;
    const auto line = [&](int64_t t) {
        if (t >= in.k) return _mm512_setzero_si512();
        const auto* at = static_cast<const uint16_t*>(in.rows[t]) + in.column;
        if (t + kBlock < in.k)
            __builtin_prefetch(static_cast<const uint16_t*>(in.rows[t + kBlock]) + in.column);
        return _mm512_maskz_loadu_epi16(inside, at);
    };
    auto* out = static_cast<uint32_t*>(a) + in.begin / 2 * kGroup;
    for (int64_t pair = in.begin / 2; pair < (in.end + 31) / 32 * 16;
         pair += 2, out += 2 * kGroup) {
        const PairedRows first = pair_rows(line(2 * pair), line(2 * pair + 1));
        const PairedRows second = pair_rows(line(2 * pair + 2), line(2 * pair + 3));
        // Lanes 0 2 0 2 and 1 3 1 3 of each row's halves, then one lane of all four.
        const __m512i first_even = _mm512_shuffle_i32x4(first.low, first.high, 0x88);
        const __m512i first_odd = _mm512_shuffle_i32x4(first.low, first.high, 0xdd);
        const __m512i second_even = _mm512_shuffle_i32x4(second.low, second.high, 0x88);
        const __m512i second_odd = _mm512_shuffle_i32x4(second.low, second.high, 0xdd);
        const int64_t stride = pair_count * kGroup;
        _mm512_storeu_si512(out, _mm512_shuffle_i32x4(first_even, second_even, 0x88));
        _mm512_storeu_si512(out + stride, _mm512_shuffle_i32x4(first_odd, second_odd, 0x88));
        _mm512_storeu_si512(out + 2 * stride, _mm512_shuffle_i32x4(first_even, second_even, 0xdd));
        _mm512_storeu_si512(out + 3 * stride, _mm512_shuffle_i32x4(first_odd, second_odd, 0xdd));
    }
}

double burst(int64_t repeats) {
    constexpr int kChains = 16;
    const volatile float one = 1;  // read anew for each: to the compiler, no two chains are one
    const volatile uint32_t ones = 0x3f803f80;
    const uint32_t pair = ones;
    const __m512bh left = repeat(&pair), right = repeat(&pair);
    __m512 sum[kChains];
    for (__m512& x : sum) x = _mm512_set1_ps(one);
    for (int64_t i = 0; i < repeats; ++i)
#pragma GCC unroll 16
        for (__m512& x : sum) x = _mm512_dpbf16_ps(x, left, right);
    for (const __m512& x : sum) {
        const volatile float used = _mm512_cvtss_f32(x);
        static_cast<void>(used);
    }
    return 4.0 * kLanes * kChains * static_cast<double>(repeats);
}

}  // namespace

constinit const GemmKernel kDotKernel = {static_cast<int64_t>(kBlock * sizeof(uint16_t)),
                                         pack_a,
                                         pack_a_transposed,
                                         multiply<16, 1>,
                                         multiply<1, kGroup>,
                                         multiply_chunk<16, 1>,
                                         multiply_few,
                                         burst};

}  // namespace fucina::cpu::FUCINA_ISA
