// One head of one document as the operands of block products: keys and values are packed once,
// queries 32 rows at a time.
#pragma once
#include <algorithm>
#include <cstring>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/cpu/scratch.h"
#include "kernels/tensor.h"

namespace fucina::cpu {

constexpr int64_t kBlockFloats = kBlock * kBlock;

inline int64_t blocks_of(int64_t n) {
    return (n + kBlock - 1) / kBlock;
}

inline int64_t document_rows(const AttentionShape& shape, int64_t document) {
    const int64_t* const bounds = shape.cu_seqlens.data<int64_t>() + document;
    return bounds[1] - bounds[0];
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

// Blocks [begin, end) of 32 rows.
struct BlockRange {
    int64_t begin = 0, end = 0;
};

// Panels of B[column][row], panel_bytes apart: k = columns, one panel per 32 rows.
inline void pack_rows_as_columns(const GemmSet& set, const RowView& x, BlockRange blocks,
                                 int64_t panel_bytes, std::byte* out) {
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        const void* rows[kBlock];
        x.pointers(block * kBlock, rows);
        for (int64_t i = 0; i < kBlock; ++i)
            x.prefetch((block + 1) * kBlock + i, x.columns * set.element);
        set.tools.pack_b_operand_rows(rows, x.columns, out + block * panel_bytes);
    }
}

// Panels of B[row][column], panel_bytes apart: k = rows, one panel per 32 columns.
inline void pack_rows_as_k(const GemmSet& set, const RowView& x, BlockRange blocks,
                           int64_t panel_bytes, std::byte* out) {
    for (int64_t column = 0; column < x.columns; column += kBlock, out += panel_bytes)
        for (int64_t block = blocks.begin; block < blocks.end; ++block) {
            const void* rows[kBlock];
            const int count = x.pointers(block * kBlock, rows);
            for (int64_t i = 0; i < kBlock && column == 0; ++i)
                x.prefetch((block + 1) * kBlock + i, x.columns * set.element);
            const int columns = static_cast<int>(std::min(kBlock, x.columns - column));
            set.tools.pack_b_tokens({rows, count, 0, count, column, columns},
                                    out + block * kBlock * kBlock * set.element);
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

// The keys of one head of a document: a part of its own, and one that all heads share.
class HeadKeys {
  public:
    HeadKeys(const GemmSet& set, const AttentionShape& shape, const AttentionKv& kv, int64_t head,
             int64_t begin, int64_t rows)
        : set_(set),
          d_qk_(shape.d_qk),
          own_(kv.k_own, begin, rows, head * kv.k_head_stride, shape.d_qk - shape.d_shared) {
        if (shape.d_shared > 0) shared_ = RowView(kv.k_shared, begin, rows, 0, shape.d_shared);
    }

    // Where the shared part begins with a block of columns, it is packed by itself: once a
    // document, for panels that hold one head's keys after the other's.
    bool apart() const { return own_.columns % kBlock == 0; }

    // Both kinds of panels; as_k may be null. With apart() and not with_shared, they keep the
    // shared part that they hold.
    void pack(BlockRange blocks, bool with_shared, std::byte* as_columns, std::byte* as_k) const {
        const int64_t own = own_.columns, block_bytes = kBlock * kBlock * set_.element;
        if (!apart()) {
            in_one(blocks, [&](int64_t block, const RowView& keys) {
                pack_part(keys, {0, 1}, as_columns + block * set_.b_bytes(d_qk_),
                          as_k == nullptr ? nullptr : as_k + block * block_bytes);
            });
            return;
        }
        pack_part(own_, blocks, as_columns, as_k);
        if (with_shared && shared_.columns > 0)
            pack_part(shared_, blocks, as_columns + set_.b_bytes(own),
                      as_k == nullptr ? nullptr : as_k + own / kBlock * set_.b_bytes(own_.rows));
    }

  private:
    void pack_part(const RowView& keys, BlockRange blocks, std::byte* as_columns,
                   std::byte* as_k) const {
        pack_rows_as_columns(set_, keys, blocks, set_.b_bytes(d_qk_), as_columns);
        if (as_k != nullptr) pack_rows_as_k(set_, keys, blocks, set_.b_bytes(own_.rows), as_k);
    }

    // Both parts side by side, 32 rows at a time.
    template <class Use>
    void in_one(BlockRange blocks, const Use& use) const {
        RowView keys;
        keys.stride = d_qk_ * set_.element;
        keys.columns = d_qk_;
        std::byte* buffer = scratch(ScratchSlot::rows, kBlock * keys.stride);
        keys.data = buffer;
        const int64_t own = own_.columns * set_.element, shared = shared_.columns * set_.element;
        for (int64_t block = blocks.begin; block < blocks.end; ++block) {
            const int64_t first = block * kBlock;
            keys.rows = std::min(kBlock, own_.rows - first);
            for (int64_t i = 0; i < keys.rows; ++i) {
                std::byte* to = buffer + i * keys.stride;
                own_.prefetch(first + i + 16, own);
                shared_.prefetch(first + i + 16, shared);
                copy_bytes(own_.data + (first + i) * own_.stride, own, to);
                copy_bytes(shared_.data + (first + i) * shared_.stride, shared, to + own);
            }
            use(block, keys);
        }
    }

    const GemmSet set_;
    const int64_t d_qk_;
    RowView own_, shared_;
};

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

// What Memory, a struct of pieces that its constructor carves, needs for so many rows; and one in a
// thread's scratch.
template <class Memory>
int64_t bytes_for(const GemmSet& set, const AttentionShape& shape, int64_t rows) {
    return Memory(set, shape, rows, Carver(nullptr)).bytes;
}
template <class Memory>
Memory in_scratch(ScratchSlot slot, const GemmSet& set, const AttentionShape& shape, int64_t rows) {
    return Memory(set, shape, rows, Carver(scratch(slot, bytes_for<Memory>(set, shape, rows))));
}

}  // namespace fucina::cpu
