// Matrix products in fp32 FMA: bf16 operands in the orders amx and fma of kernels/gemm.h, and fp32.
// The same code at every level; only the number of outputs held in registers differs.
//
// A is kept in fp32 in groups of G rows, [group][k/32][G][32], so that every element is a broadcast
// load with a constant offset; transposed, [group][k][G].
#include "kernels/cpu/fma_burst.h"
#include "kernels/cpu/gemm_tokens.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

constexpr int64_t kChunk = 256;  // of k: 32 columns of bf16 B and a group of A fit in 32 KB of L1

// Rows of the groups of A; rows of them and vectors of 16 columns that are multiplied at a time:
// enough sums to hide the latency of FMA, and registers for them.
#if defined(__AVX512F__)
constexpr int kGroups[] = {8, 8, 8, 8}, kVectors = 2, kChainRows = 8, kAmxRows = 4;
constexpr bool kBothChains = true;
#elif defined(__AVX2__)
constexpr int kGroups[] = {6, 6, 6, 6, 4, 4}, kVectors = 1, kChainRows = 6, kAmxRows = 6;
constexpr bool kBothChains = false;  // a vector is two of 16 registers
#else
constexpr int kGroups[] = {4, 4, 4, 4, 4, 4, 4, 4}, kVectors = 1, kChainRows = 1, kAmxRows = 1;
constexpr bool kBothChains = true;
#endif
constexpr int kLastGroup = kGroups[sizeof kGroups / sizeof kGroups[0] - 1];

// Element (r, k) of a group of G rows of A is a[r * kRow + k * kStep] within 32 consecutive k.
template <int G>
struct Straight {
    static constexpr int kGroup = G, kRow = 32, kStep = 1;
};
template <int G>
struct Transposed {
    static constexpr int kGroup = G, kRow = 1, kStep = G;
};

// sum[r] += A[r][k] b for one k.
template <class A, int R>
FUCINA_INLINE void add_products(const float* a, int64_t k, const Vec (&b)[kVectors],
                                Vec (&sum)[R][kVectors]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const Vec left = set1(a[r * A::kRow + k * A::kStep]);
        for (int j = 0; j < kVectors; ++j) sum[r][j] = fma(left, b[j], sum[r][j]);
    }
}
template <class A, int R>
FUCINA_INLINE void add_even(const float* a, const uint16_t* b, int64_t pair,
                            Vec (&sum)[R][kVectors]) {
    Vec even[kVectors];
    for (int j = 0; j < kVectors; ++j) even[j] = load_even(b + j * 512 + pair * 32);
    add_products<A, R>(a, 2 * pair, even, sum);
}
template <class A, int R>
FUCINA_INLINE void add_odd(const float* a, const uint16_t* b, int64_t pair,
                           Vec (&sum)[R][kVectors]) {
    Vec odd[kVectors];
    for (int j = 0; j < kVectors; ++j) odd[j] = load_odd(b + j * 512 + pair * 32);
    add_products<A, R>(a, 2 * pair + 1, odd, sum);
}

template <int R, int V>
FUCINA_INLINE void begin_sums(bool more, const float* c, Vec (&sum)[R][V]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < V; ++j) sum[r][j] = more ? load(c + r * kBlock + j * kLanes) : zero();
}
template <int R, int V>
FUCINA_INLINE void end_sums(Vec (&sum)[R][V], float* c, int merges) {
    for (; merges > 0; --merges) {
        c -= kPartialFloats;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < V; ++j)
                sum[r][j] = add(load(c + r * kBlock + j * kLanes), sum[r][j]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < V; ++j) store(c + r * kBlock + j * kLanes, sum[r][j]);
}

// Each kind of product: C (+)= A · B for R rows and 16 kVectors columns.
struct AmxOrder {
    using Element = uint16_t;
    static constexpr int kColumnStep = 512;  // elements of B between halves of its 32 columns
    static constexpr int kRows = kAmxRows;

    template <class A, int R>
    static void run(const float* a, const uint16_t* b, int64_t k, ChunkSums sums) {
        for (; k > 0; k -= 32, a += 32 * A::kGroup, b += 1024) {
            Vec even[R][kVectors], odd[R][kVectors];
            begin_sums(false, sums.c, even);
            begin_sums(false, sums.c, odd);
            if (k > 30) {
                full_block<A, R>(a, b, even, odd);
            } else {
                for (int64_t pair = 0; pair < (k + 1) / 2; ++pair) {
                    add_even<A, R>(a, b, pair, even);
                    add_odd<A, R>(a, b, pair, odd);
                }
            }
            for (int r = 0; r < R; ++r)
                for (int j = 0; j < kVectors; ++j) {
                    if (k <= 30) {  // what the products of the padding add: -0 becomes +0
                        even[r][j] = add(even[r][j], zero());
                        odd[r][j] = add(odd[r][j], zero());
                    }
                    const float* before = sums.c + r * kBlock + j * kLanes;
                    even[r][j] = add(sums.more ? load(before) : zero(), add(even[r][j], odd[r][j]));
                }
            end_sums(even, sums.c, k > 32 ? 0 : sums.merges);
            sums.more = true;
        }
    }

  private:
    // The chains together where the registers hold both, else one after the other.
    template <class A, int R>
    FUCINA_INLINE void full_block(const float* a, const uint16_t* b, Vec (&even)[R][kVectors],
                                  Vec (&odd)[R][kVectors]) {
        if constexpr (kBothChains) {
#pragma GCC unroll 16
            for (int pair = 0; pair < 16; ++pair) {
                add_even<A, R>(a, b, pair, even);
                add_odd<A, R>(a, b, pair, odd);
            }
        } else {
#pragma GCC unroll 16
            for (int pair = 0; pair < 16; ++pair) add_even<A, R>(a, b, pair, even);
#pragma GCC unroll 16
            for (int pair = 0; pair < 16; ++pair) add_odd<A, R>(a, b, pair, odd);
        }
    }
};

struct FmaOrder {
    using Element = uint16_t;
    FUCINA_INLINE void prefetch(const uint16_t* b, int64_t pair, int j) {
        __builtin_prefetch(b + j * 512 + pair * 32);
    }
    FUCINA_INLINE Vec even(const uint16_t* b, int64_t pair, int j) {
        return load_even(b + j * 512 + pair * 32);
    }
    FUCINA_INLINE Vec odd(const uint16_t* b, int64_t pair, int j) {
        return load_odd(b + j * 512 + pair * 32);
    }
    static constexpr int kColumnStep = 512;
    static constexpr int kRows = kChainRows;

    template <class A, int R>
    static void run(const float* a, const uint16_t* b, int64_t k, ChunkSums sums) {
        Vec sum[R][kVectors];
        begin_sums(sums.more, sums.c, sum);
        for (; k >= 32; k -= 32, a += 32 * A::kGroup, b += 1024) {
#pragma GCC unroll 16
            for (int pair = 0; pair < 16; ++pair) {
                add_even<A, R>(a, b, pair, sum);
                add_odd<A, R>(a, b, pair, sum);
            }
        }
        for (int64_t pair = 0; pair < k / 2; ++pair) {
            add_even<A, R>(a, b, pair, sum);
            add_odd<A, R>(a, b, pair, sum);
        }
        if (k % 2 != 0) add_even<A, R>(a, b, k / 2, sum);
        end_sums(sum, sums.c, sums.merges);
    }
};

struct Fp32 {
    using Element = float;
    // Columns 16 j .. 16 j + 15 of rows 2 pair and 2 pair + 1 of a block of 32 rows of B.
    FUCINA_INLINE void prefetch(const float* b, int64_t pair, int j) {
        __builtin_prefetch(b + 2 * pair * kBlock + j * kLanes);
        __builtin_prefetch(b + (2 * pair + 1) * kBlock + j * kLanes);
    }
    FUCINA_INLINE Vec even(const float* b, int64_t pair, int j) {
        return load(b + 2 * pair * kBlock + j * kLanes);
    }
    FUCINA_INLINE Vec odd(const float* b, int64_t pair, int j) {
        return load(b + (2 * pair + 1) * kBlock + j * kLanes);
    }
    static constexpr int kColumnStep = 16;
    static constexpr int kRows = kChainRows;

    template <class A, int R>
    static void run(const float* a, const float* b, int64_t k, ChunkSums sums) {
        Vec sum[R][kVectors];
        begin_sums(sums.more, sums.c, sum);
        for (; k >= 32; k -= 32, a += 32 * A::kGroup, b += 32 * kBlock) {
#pragma GCC unroll 8
            for (int i = 0; i < 32; ++i) add_line<A, R>(a, b, i, sum);
        }
        for (int64_t i = 0; i < k; ++i) add_line<A, R>(a, b, i, sum);
        end_sums(sum, sums.c, sums.merges);
    }

  private:
    template <class A, int R>
    FUCINA_INLINE void add_line(const float* a, const float* b, int64_t i,
                                Vec (&sum)[R][kVectors]) {
        Vec line[kVectors];
        for (int j = 0; j < kVectors; ++j) line[j] = load(b + i * kBlock + j * kLanes);
        add_products<A, R>(a, i, line, sum);
    }
};

// `rows` <= Most rows.
template <class Type, class A, int Most>
FUCINA_INLINE void some_rows(const float* a, const typename Type::Element* b, int64_t k, int rows,
                             const ChunkSums& sums) {
    if constexpr (Most > 1) {
        if (rows < Most) return some_rows<Type, A, Most - 1>(a, b, k, rows, sums);
    }
    Type::template run<A, Most>(a, b, k, sums);
}

// A group times some k of B.
template <class Type, class A>
void group_rows(const float* a, const typename Type::Element* b, int64_t k, int rows,
                const ChunkSums& sums) {
    constexpr int kRows = Type::kRows < A::kGroup ? Type::kRows : A::kGroup;
    for (int row = 0; row < rows; row += kRows)
        for (int half = 0; half < 2; half += kVectors)
            some_rows<Type, A, kRows>(
                a + row * A::kRow, b + half * Type::kColumnStep, k, rows - row,
                {sums.c + row * kBlock + half * kLanes, sums.more, sums.merges});
}

template <class Type, template <int> class Layout>
void multiply_chunk(const void* a, const void* b, int64_t k, int rows, ChunkSums sums) {
    const auto* left = static_cast<const float*>(a);
    const auto* right = static_cast<const typename Type::Element*>(b);
    if (k == 0 && !sums.more)  // an empty leaf is a leaf of zeros
        for (int i = 0; i < rows * kBlock; i += kLanes) store(sums.c + i, zero());
    const int64_t padded = (k + 31) / 32 * 32;
    for (int64_t first = 0; first < k; first += kChunk) {
        const int64_t count = k - first < kChunk ? k - first : kChunk;
        int row = 0;
        for (const int group : kGroups) {
            if (row >= rows) break;
            const float* from = left + row * padded + first * group;
            const auto* panel = right + first * kBlock;
            const int count_rows = rows - row < group ? rows - row : group;
            const ChunkSums of_group{sums.c + row * kBlock, first > 0 || sums.more,
                                     first + count == k ? sums.merges : 0};
            if (group == kGroups[0])
                group_rows<Type, Layout<kGroups[0]>>(from, panel, count, count_rows, of_group);
            else
                group_rows<Type, Layout<kLastGroup>>(from, panel, count, count_rows, of_group);
            row += group;
        }
    }
}

template <class Type, template <int> class Layout>
void multiply(const void* a, const void* b, int64_t k, int rows, bool accumulate, float* c) {
    multiply_chunk<Type, Layout>(a, b, k, rows, {c, accumulate, 0});
}

// R rows and P panels of B, `panel` elements apart, for kinds of one chain over k.
template <class Type, int R, int P>
void few_panels(const float* a, const typename Type::Element* b, int64_t panel, int64_t k,
                const ChunkSums& sums) {
    constexpr int kGroup = kGroups[0];
    constexpr int64_t kAhead = 512;  // elements of B: what is asked for comes from memory
    Vec sum[P][R][2];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) begin_sums(sums.more, sums.c + p * kBlock * kBlock, sum[p]);
    for (; k > 0; k -= 32, a += 32 * kGroup, b += 32 * kBlock) {
        const int64_t count = k < 32 ? k : 32;
        for (int64_t i = 0; i < count; i += 2) {
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p)
                for (int j = 0; j < 2; ++j) {
                    Type::prefetch(b + p * panel + kAhead, i / 2, j);
                    const Vec line = Type::even(b + p * panel, i / 2, j);
                    for (int r = 0; r < R; ++r)
                        sum[p][r][j] = fma(set1(a[r * 32 + i]), line, sum[p][r][j]);
                }
            if (i + 1 == count) break;
#pragma GCC unroll 8
            for (int p = 0; p < P; ++p)
                for (int j = 0; j < 2; ++j) {
                    const Vec line = Type::odd(b + p * panel, i / 2, j);
                    for (int r = 0; r < R; ++r)
                        sum[p][r][j] = fma(set1(a[r * 32 + i + 1]), line, sum[p][r][j]);
                }
        }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) end_sums(sum[p], sums.c + p * kBlock * kBlock, sums.merges);
}

template <class Type, int R, int P>
void few_rows(const void* a, const PanelsOfB& in, int64_t k, ChunkSums sums) {
    using Element = typename Type::Element;
    const auto* left = static_cast<const float*>(a);
    const auto* b = static_cast<const Element*>(in.data);
    const int64_t panel = in.stride / static_cast<int64_t>(sizeof(Element));
    int panels = in.count;
    for (; panels >= P; panels -= P, b += P * panel, sums.c += P * kBlock * kBlock)
        few_panels<Type, R, P>(left, b, panel, k, sums);
    for (; panels > 0; --panels, b += panel, sums.c += kBlock * kBlock)
        few_panels<Type, R, 1>(left, b, panel, k, sums);
}

template <class Type>
void multiply_few(const void* a, const PanelsOfB& b, int64_t k, int rows, ChunkSums sums) {
    constexpr int kPanels = 2 * kVectors;  // eight chains with one row
    if (rows == 1) return few_rows<Type, 1, kPanels>(a, b, k, sums);
    if (rows == 2) return few_rows<Type, 2, kPanels / 2>(a, b, k, sums);
    if (rows == 3) return few_rows<Type, 3, 1>(a, b, k, sums);
    few_rows<Type, 4, 1>(a, b, k, sums);
}

template <class T>
void pack_a(const void* const* rows, int count, int64_t k, void* a) {
    const int64_t padded = (k + 31) / 32 * 32;
    int first = 0;
    for (const int group : kGroups) {
        for (int row = first; row < first + group && row < count; ++row) {
            const T* in = static_cast<const T*>(rows[row]);
            float* out = static_cast<float*>(a) + first * padded + (row - first) * 32;
            for (int64_t i = 0; i < k; i += 32, out += 32 * group) {
                store(out, load_some(in + i, k - i));
                store(out + kLanes,
                      k - i > kLanes ? load_some(in + i + kLanes, k - i - kLanes) : zero());
            }
        }
        first += group;
    }
}

template <class T>
void pack_a_transposed(const TokenColumns& in, void* a) {
    const int64_t padded = (in.k + 31) / 32 * 32;
    for (int64_t t = in.begin; t < (in.end + 31) / 32 * 32; ++t) {
        Vec low = zero(), high = zero();
        if (t < in.end) {
            const T* row = token<T>(in, t);
            low = load_some(row, in.columns);
            if (in.columns > kLanes) high = load_some(row + kLanes, in.columns - kLanes);
        }
        float lanes[32];
        store(lanes, low);
        store(lanes + kLanes, high);
        int first = 0;
        for (const int group : kGroups) {
            __builtin_memcpy(static_cast<float*>(a) + first * padded + t * group, lanes + first,
                             static_cast<size_t>(group) * sizeof(float));
            first += group;
        }
    }
}

template <class Type>
constexpr GemmKernel kernel() {
    return {static_cast<int64_t>(kBlock * sizeof(float)),
            pack_a<typename Type::Element>,
            pack_a_transposed<typename Type::Element>,
            multiply<Type, Straight>,
            multiply<Type, Transposed>,
            multiply_chunk<Type, Straight>,
            nullptr,
            fma_burst};
}
template <class Type>
constexpr GemmKernel chain_kernel() {
    GemmKernel made = kernel<Type>();
    made.multiply_few = multiply_few<Type>;
    return made;
}

}  // namespace

constinit const GemmKernel kBf16Kernel = kernel<AmxOrder>();
constinit const GemmKernel kFmaKernel = chain_kernel<FmaOrder>();
constinit const GemmKernel kFp32Kernel = chain_kernel<Fp32>();

}  // namespace fucina::cpu::FUCINA_ISA
