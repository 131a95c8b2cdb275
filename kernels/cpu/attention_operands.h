// One head of one document as the operands of block products: keys and values are packed once,
// queries 32 rows at a time.
#pragma once
#include <algorithm>
#include <cstring>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/tensor.h"

namespace fucina::cpu {

constexpr int64_t kBlockFloats = kBlock * kBlock;

inline int64_t blocks_of(int64_t n) {
    return (n + kBlock - 1) / kBlock;
}

inline const AttentionKernels& attention_kernels(DType type) {
    return type == DType::bf16 ? FUCINA_PICK(kBf16Attention) : FUCINA_PICK(kFp32Attention);
}

// Some columns of consecutive rows of a tensor.
struct RowView {
    const std::byte* data = nullptr;
    int64_t stride = 0;  // bytes
    int64_t rows = 0, columns = 0;

    RowView() = default;
    RowView(const Tensor& x, int64_t first_row, int64_t row_count, int64_t first_column,
            int64_t column_count)
        : data(x.raw() + (first_row * x.row_stride() + first_column) * size_of(x.dtype())),
          stride(x.row_stride() * size_of(x.dtype())),
          rows(row_count),
          columns(column_count) {}

    // Rows of a head lie far apart, which no hardware prefetcher follows.
    void prefetch(int64_t row, int64_t bytes) const {
        if (row >= rows) return;
        for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + row * stride + i);
    }

    // Pointers to at most 32 rows from `first`; null beyond the last.
    int pointers(int64_t first, const void** out) const {
        const int count = static_cast<int>(std::min(kBlock, rows - first));
        for (int i = 0; i < kBlock; ++i) out[i] = i < count ? data + (first + i) * stride : nullptr;
        return count;
    }
};

// Bytes of all panels of B[column][row]: k = columns, one panel per 32 rows.
inline int64_t rows_as_columns_bytes(const GemmSet& set, const RowView& x) {
    return blocks_of(x.rows) * set.b_bytes(x.columns);
}
inline void pack_rows_as_columns(const GemmSet& set, const RowView& x, std::byte* out) {
    for (int64_t row = 0; row < x.rows; row += kBlock, out += set.b_bytes(x.columns)) {
        const void* rows[kBlock];
        x.pointers(row, rows);
        for (int64_t i = 0; i < kBlock; ++i) x.prefetch(row + kBlock + i, x.columns * set.element);
        set.tools.pack_b_operand_rows(rows, x.columns, out);
    }
}

// Bytes of all panels of B[row][column]: k = rows, one panel per 32 columns.
inline int64_t rows_as_k_bytes(const GemmSet& set, const RowView& x) {
    return blocks_of(x.columns) * set.b_bytes(x.rows);
}
inline void pack_rows_as_k(const GemmSet& set, const RowView& x, std::byte* out) {
    for (int64_t column = 0; column < x.columns; column += kBlock)
        for (int64_t row = 0; row < x.rows; row += kBlock) {
            const void* rows[kBlock];
            const int count = x.pointers(row, rows);
            for (int64_t i = 0; i < kBlock && column == 0; ++i)
                x.prefetch(row + kBlock + i, x.columns * set.element);
            const int columns = static_cast<int>(std::min(kBlock, x.columns - column));
            set.tools.pack_b_tokens(
                {rows, count, 0, count, column, columns},
                out + column / kBlock * set.b_bytes(x.rows) + row * kBlock * set.element);
        }
}

// Up to 32 rows from `first` as the left operand.
inline void pack_left(const GemmSet& set, const RowView& x, int64_t first, void* out) {
    const void* rows[kBlock];
    const int count = x.pointers(first, rows);
    for (int64_t i = 0; i < kBlock; ++i) x.prefetch(first + kBlock + i, x.columns * set.element);
    set.kernel.pack_a(rows, count, x.columns, out);
}

// A few lines: a call of memcpy would take longer.
inline void copy_bytes(const std::byte* from, int64_t bytes, std::byte* to) {
    int64_t i = 0;
    for (; i + 64 <= bytes; i += 64) std::memcpy(to + i, from + i, 64);
    if (i < bytes) std::memcpy(to + i, from + i, static_cast<size_t>(bytes - i));
}

// Keys of one head, own and shared part side by side, copied to `buffer` if there is a shared part.
inline RowView head_keys(const AttentionShape& shape, const AttentionKv& kv, int64_t head,
                         int64_t begin, int64_t rows, std::byte* buffer) {
    const int64_t own = shape.d_qk - shape.d_shared;
    RowView keys(kv.k_own, begin, rows, head * kv.k_head_stride, own);
    if (shape.d_shared == 0) return keys;
    const RowView shared(kv.k_shared, begin, rows, 0, shape.d_shared);
    const int64_t element = size_of(kv.k_own.dtype());
    RowView whole;
    whole.data = buffer;
    whole.stride = shape.d_qk * element;
    whole.rows = rows;
    whole.columns = shape.d_qk;
    for (int64_t i = 0; i < rows; ++i) {
        std::byte* to = buffer + i * whole.stride;
        keys.prefetch(i + 16, own * element);
        shared.prefetch(i + 16, shape.d_shared * element);
        copy_bytes(keys.data + i * keys.stride, own * element, to);
        copy_bytes(shared.data + i * shared.stride, shape.d_shared * element, to + own * element);
    }
    return whole;
}

// Cuts one buffer into pieces that begin at multiples of 64 bytes. With a null base it only counts.
class Carver {
  public:
    explicit Carver(std::byte* base) : base_(base) {}
    std::byte* take(int64_t bytes) {
        std::byte* piece = base_ + used_;
        used_ += round_up(bytes, 64);
        return piece;
    }
    float* floats(int64_t count) { return reinterpret_cast<float*>(take(count * 4)); }
    int64_t used() const { return used_; }

  private:
    std::byte* base_;
    int64_t used_ = 0;
};

}  // namespace fucina::cpu
