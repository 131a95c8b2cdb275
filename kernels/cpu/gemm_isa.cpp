// Matrix products in fp32 FMA: bf16 operands in the exact order of kernels/gemm.h, and fp32. The
// same code at every level; only the number of outputs held in registers differs.
//
// A is kept in fp32 in groups of 8 rows, [32/8][k/32][8][32], so that every element is a broadcast
// load with a constant offset; transposed, [32/8][k][8].
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/transpose_pairs.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

constexpr int kGroup = 8;
constexpr int64_t kChunk = 512;  // of k: 32 columns of bf16 B and 4 rows of A fit in 48 KB of L1

#if defined(__AVX512F__)
constexpr int kExactRows = 4, kFp32Rows = 8, kVectors = 2;  // 2 · 4 · 2 and 8 · 2 accumulators
#elif defined(__AVX2__)
constexpr int kExactRows = 2, kFp32Rows = 4, kVectors = 1;  // of two registers each
#else
constexpr int kExactRows = 1, kFp32Rows = 1, kVectors = 1;
#endif

template <int R>
struct Chains {
    Vec even[R][kVectors], odd[R][kVectors];
};

// Element (r, k) of A is a[r * RowStride + k * KStride] within 32 consecutive k.
template <int R, int RowStride, int KStride>
FUCINA_INLINE void add_pair(const float* a, const uint16_t* b, int64_t pair, Chains<R>& chains) {
    Vec be[kVectors], bo[kVectors];
    for (int j = 0; j < kVectors; ++j) be[j] = load_even(b + j * 512 + pair * 32);
    for (int j = 0; j < kVectors; ++j) bo[j] = load_odd(b + j * 512 + pair * 32);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const Vec ae = set1(a[r * RowStride + 2 * pair * KStride]);
        for (int j = 0; j < kVectors; ++j) chains.even[r][j] = fma(ae, be[j], chains.even[r][j]);
        const Vec ao = set1(a[r * RowStride + (2 * pair + 1) * KStride]);
        for (int j = 0; j < kVectors; ++j) chains.odd[r][j] = fma(ao, bo[j], chains.odd[r][j]);
    }
}

template <int R, int RowStride, int KStride>
void exact_rows(const float* a, const uint16_t* b, int64_t k, bool fresh, float* c) {
    for (; k > 0; k -= 32) {
        Chains<R> chains;
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < kVectors; ++j) chains.even[r][j] = chains.odd[r][j] = zero();
        if (k > 30) {
#pragma GCC unroll 16
            for (int pair = 0; pair < 16; ++pair)
                add_pair<R, RowStride, KStride>(a, b, pair, chains);
        } else {
            for (int64_t pair = 0; pair < (k + 1) / 2; ++pair)
                add_pair<R, RowStride, KStride>(a, b, pair, chains);
            // What the products of the padding add: nothing, but -0 becomes +0.
            for (int r = 0; r < R; ++r)
                for (int j = 0; j < kVectors; ++j) {
                    chains.even[r][j] = add(chains.even[r][j], zero());
                    chains.odd[r][j] = add(chains.odd[r][j], zero());
                }
        }
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < kVectors; ++j) {
                float* out = c + r * kBlock + j * kLanes;
                const Vec before = fresh ? zero() : load(out);
                store(out, add(before, add(chains.even[r][j], chains.odd[r][j])));
            }
        fresh = false;
        a += 32 * kGroup;
        b += 1024;
    }
}

template <int R, int RowStride, int KStride>
void fp32_rows(const float* a, const float* b, int64_t k, bool fresh, float* c) {
    Vec sum[R][kVectors];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < kVectors; ++j)
            sum[r][j] = fresh ? zero() : load(c + r * kBlock + j * kLanes);
    while (k > 0) {
        const int64_t count = k < 32 ? k : 32;
#pragma GCC unroll 4
        for (int64_t i = 0; i < count; ++i) {
            Vec right[kVectors];
            for (int j = 0; j < kVectors; ++j) right[j] = load(b + i * kBlock + j * kLanes);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const Vec left = set1(a[r * RowStride + i * KStride]);
                for (int j = 0; j < kVectors; ++j) sum[r][j] = fma(left, right[j], sum[r][j]);
            }
        }
        a += 32 * kGroup;
        b += 32 * kBlock;
        k -= count;
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < kVectors; ++j) store(c + r * kBlock + j * kLanes, sum[r][j]);
}

struct Bf16 {
    using Element = uint16_t;
    static constexpr int kRows = kExactRows;
    static constexpr int kColumnStep = 512;  // elements of B between column halves
    template <int R, int RowStride, int KStride>
    static void run(const float* a, const uint16_t* b, int64_t k, bool fresh, float* c) {
        exact_rows<R, RowStride, KStride>(a, b, k, fresh, c);
    }
};

struct Fp32 {
    using Element = float;
    static constexpr int kRows = kFp32Rows;
    static constexpr int kColumnStep = 16;
    template <int R, int RowStride, int KStride>
    static void run(const float* a, const float* b, int64_t k, bool fresh, float* c) {
        fp32_rows<R, RowStride, KStride>(a, b, k, fresh, c);
    }
};

// `rows` <= Most rows.
template <class Type, int Most, int RowStride, int KStride>
void some_rows(const float* a, const typename Type::Element* b, int64_t k, int rows, bool fresh,
               float* c) {
    if constexpr (Most > 1) {
        if (rows < Most)
            return some_rows<Type, Most - 1, RowStride, KStride>(a, b, k, rows, fresh, c);
    }
    Type::template run<Most, RowStride, KStride>(a, b, k, fresh, c);
}

template <class Type, int RowStride, int KStride>
void multiply(const void* a, const void* b, int64_t k, int rows, bool accumulate, float* c) {
    const auto* left = static_cast<const float*>(a);
    const auto* right = static_cast<const typename Type::Element*>(b);
    if (k == 0 && !accumulate)  // an empty leaf is a leaf of zeros
        for (int i = 0; i < rows * kBlock; i += kLanes) store(c + i, zero());
    const int64_t group_size = (k + 31) / 32 * 32 * kGroup;
    for (int64_t first = 0; first < k; first += kChunk) {
        const int64_t count = k - first < kChunk ? k - first : kChunk;
        for (int row = 0; row < rows; row += Type::kRows) {
            const float* group = left + row / kGroup * group_size + first * kGroup;
            const int left_rows = rows - row < Type::kRows ? rows - row : Type::kRows;
            for (int half = 0; half < 2; half += kVectors)
                some_rows<Type, Type::kRows, RowStride, KStride>(
                    group + row % kGroup * RowStride,
                    right + first * kBlock + half * Type::kColumnStep, count, left_rows,
                    first == 0 && !accumulate, c + row * kBlock + half * kLanes);
        }
    }
}

template <class T>
void pack_a(const void* const* rows, int count, int64_t k, void* a) {
    const int64_t blocks = (k + 31) / 32;
    for (int row = 0; row < count; ++row) {
        const T* in = static_cast<const T*>(rows[row]);
        float* out =
            static_cast<float*>(a) + row / kGroup * blocks * 32 * kGroup + row % kGroup * 32;
        for (int64_t i = 0; i < k; i += 32, out += 32 * kGroup) {
            store(out, load_some(in + i, k - i));
            store(out + kLanes,
                  k - i > kLanes ? load_some(in + i + kLanes, k - i - kLanes) : zero());
        }
    }
}

// Rows may lie anywhere, which no hardware prefetcher foresees: those of the next 32 tokens.
template <class T>
FUCINA_INLINE const T* token(const TokenColumns& in, int64_t i) {
    if (i + kBlock < in.k)
        __builtin_prefetch(static_cast<const T*>(in.rows[i + kBlock]) + in.column);
    return static_cast<const T*>(in.rows[i]) + in.column;
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
        for (int group = 0; group < 4; ++group)
            __builtin_memcpy(static_cast<float*>(a) + (group * padded + t) * kGroup,
                             lanes + group * kGroup, kGroup * sizeof(float));
    }
}

// 32 elements of a row as bf16, zeros beyond n.
FUCINA_INLINE const uint16_t* bf16_line(const float* row, int64_t n, uint16_t* line) {
    store(line, load_some(row, n));
    store(line + kLanes, n > kLanes ? load_some(row + kLanes, n - kLanes) : zero());
    return line;
}
FUCINA_INLINE const uint16_t* bf16_line(const uint16_t* row, int64_t n, uint16_t* line) {
    if (n >= kBlock) return row;
    for (int i = 0; i < kBlock; ++i) line[i] = i < n ? row[i] : 0;
    return line;
}

template <class T>
void pack_b_rows_bf16(const T* const* rows, int64_t k, void* b) {
    auto* out = static_cast<uint16_t*>(b);
    for (int64_t first = 0; first < k; first += 32)
        for (int half = 0; half < 2; ++half, out += 512) {
            alignas(64) uint32_t lines[16 * 16];  // [column][pair of k]
            for (int column = 0; column < 16; ++column) {
                const T* in = rows[half * 16 + column];
                uint16_t buffer[32] = {};
                const uint16_t* line =
                    in == nullptr ? buffer : bf16_line(in + first, k - first, buffer);
                __builtin_memcpy(lines + column * 16, line, 64);
            }
            transpose_pairs(lines, out);
        }
}
void pack_b_operand_rows_bf16(const void* const* rows, int64_t k, void* b) {
    pack_b_rows_bf16(reinterpret_cast<const uint16_t* const*>(rows), k, b);
}

void pack_b_rows_f32(const float* const* rows, int64_t k, void* b) {
    auto* out = static_cast<float*>(b);
    for (int column = 0; column < kBlock; ++column)
        for (int64_t i = 0; i < k; ++i)
            out[i * kBlock + column] = rows[column] == nullptr ? 0.0f : rows[column][i];
}
void pack_b_operand_rows_f32(const void* const* rows, int64_t k, void* b) {
    pack_b_rows_f32(reinterpret_cast<const float* const*>(rows), k, b);
}

// Sixteen columns of a pair of rows, interleaved; null rows are zeros.
FUCINA_INLINE void interleave(const uint16_t* first, const uint16_t* second, uint16_t* out) {
    uint32_t pairs[16];
    for (int i = 0; i < 16; ++i) pairs[i] = first[i] | uint32_t{second[i]} << 16;
    __builtin_memcpy(out, pairs, sizeof pairs);
}

// row(i) is row i of the operand.
template <class Row>
void pack_b_pairs(const Row& row, int64_t k, int columns, void* b) {
    auto* out = static_cast<uint16_t*>(b);
    const uint16_t zeros[32] = {};
    for (int64_t first = 0; first < k; first += 32, out += 1024)
        for (int pair = 0; pair < 16; ++pair) {
            const int64_t i = first + 2 * pair;
            uint16_t even[32], odd[32];
            const uint16_t* e = i < k ? bf16_line(row(i), columns, even) : zeros;
            const uint16_t* o = i + 1 < k ? bf16_line(row(i + 1), columns, odd) : zeros;
            interleave(e, o, out + pair * 32);
            interleave(e + 16, o + 16, out + 512 + pair * 32);
        }
}

// Padded with zeros to a multiple of 32 rows, as attention multiplies whole blocks of keys.
template <class Row>
void pack_b_lines(const Row& row, int64_t k, int columns, void* b) {
    auto* out = static_cast<float*>(b);
    for (int64_t i = 0; i < (k + 31) / 32 * 32; ++i, out += kBlock) {
        Vec low = zero(), high = zero();
        if (i < k) {
            low = load_some(row(i), columns);
            if (columns > kLanes) high = load_some(row(i) + kLanes, columns - kLanes);
        }
        store(out, low);
        store(out + kLanes, high);
    }
}

void pack_b_columns_bf16(Fp32Rows w, int64_t k, int columns, void* b) {
    pack_b_pairs([&](int64_t i) { return w.data + i * w.stride; }, k, columns, b);
}
void pack_b_columns_f32(Fp32Rows w, int64_t k, int columns, void* b) {
    pack_b_lines([&](int64_t i) { return w.data + i * w.stride; }, k, columns, b);
}
void pack_b_tokens_bf16(const TokenColumns& in, void* b) {
    pack_b_pairs([&](int64_t i) { return token<uint16_t>(in, in.begin + i); }, in.end - in.begin,
                 in.columns, static_cast<uint16_t*>(b) + in.begin * kBlock);
}
void pack_b_tokens_f32(const TokenColumns& in, void* b) {
    pack_b_lines([&](int64_t i) { return token<float>(in, in.begin + i); }, in.end - in.begin,
                 in.columns, static_cast<float*>(b) + in.begin * kBlock);
}

template <class Type>
constexpr GemmKernel kernel() {
    return {static_cast<int64_t>(kBlock * sizeof(float)), pack_a<typename Type::Element>,
            pack_a_transposed<typename Type::Element>, multiply<Type, 32, 1>,
            multiply<Type, 1, kGroup>};
}

}  // namespace

constinit const GemmKernel kBf16Kernel = kernel<Bf16>();
constinit const GemmKernel kFp32Kernel = kernel<Fp32>();
constinit const GemmTools kBf16Tools = {pack_b_rows_bf16<float>, pack_b_operand_rows_bf16,
                                        pack_b_columns_bf16, pack_b_tokens_bf16};
constinit const GemmTools kFp32Tools = {pack_b_rows_f32, pack_b_operand_rows_f32,
                                        pack_b_columns_f32, pack_b_tokens_f32};

}  // namespace fucina::cpu::FUCINA_ISA
