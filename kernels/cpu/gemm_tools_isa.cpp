// Packing of the right operands of matrix products, in the layouts of kernels/cpu/gemm_kernels.h.
#include "kernels/cpu/gemm_tokens.h"
#include "kernels/cpu/transpose_pairs.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

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

}  // namespace

constinit const GemmTools kBf16Tools = {pack_b_rows_bf16<float>, pack_b_operand_rows_bf16,
                                        pack_b_columns_bf16, pack_b_tokens_bf16};
constinit const GemmTools kFp32Tools = {pack_b_rows_f32, pack_b_operand_rows_f32,
                                        pack_b_columns_f32, pack_b_tokens_f32};

}  // namespace fucina::cpu::FUCINA_ISA
