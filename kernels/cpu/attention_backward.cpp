// Backward of flash attention: P is formed again from the log-sum-exp, 128 queries at a time
// against blocks of 32 keys. One task owns a key-value head of a document, so dK and dV are summed
// over its heads and queries in order, without atomics.
#include <algorithm>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_operands.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

constexpr int64_t kStripBlocks = 4;  // of 32 queries
constexpr int64_t kStripRows = kStripBlocks * kBlock;

class KvHeadBackward {
  public:
    // d_shared: fp32 [rows of the document, shape.d_shared], or null.
    KvHeadBackward(const AttentionShape& shape, const ops::AttentionBackward& io, int64_t document,
                   int64_t kv_head, float* d_shared)
        : shape_(shape),
          io_(io),
          set_(gemm_set(io.q.dtype())),
          kernels_(attention_kernels(io.q.dtype())),
          begin_(shape.cu_seqlens[static_cast<size_t>(document)]),
          rows_(shape.cu_seqlens[static_cast<size_t>(document) + 1] - begin_),
          kv_head_(kv_head),
          d_shared_(d_shared) {
        Carver count(nullptr);
        carve(count);
        Carver memory(scratch(ScratchSlot::attention, count.used()));
        carve(memory);
        const RowView k = head_keys(shape, io.kv, kv_head, begin_, rows_, whole_keys_);
        const RowView v(io.kv.v, begin_, rows_, kv_head * io.kv.v_head_stride, shape.d_v);
        pack_rows_as_columns(set_, k, keys_as_columns_);
        pack_rows_as_k(set_, k, keys_as_k_);
        pack_rows_as_columns(set_, v, values_as_columns_);
    }

    void run() {
        const int64_t group = shape_.heads / shape_.kv_heads;
        for (int64_t head = kv_head_ * group; head < (kv_head_ + 1) * group; ++head) {
            q_ = RowView(io_.q, begin_, rows_, head * shape_.d_qk, shape_.d_qk);
            d_out_ = RowView(io_.d_out, begin_, rows_, head * shape_.d_v, shape_.d_v);
            const RowView out(io_.out, begin_, rows_, head * shape_.d_v, shape_.d_v);
            kernels_.row_dots({d_out_.data, out.data, d_out_.stride / set_.element,
                               out.stride / set_.element, shape_.d_v, static_cast<int>(rows_),
                               delta_});
            pack_rows_as_k(set_, q_, q_as_k_);
            pack_rows_as_k(set_, d_out_, d_out_as_k_);
            for (int64_t first = 0; first < rows_; first += kStripRows) query_strip(first, head);
        }
        store_gradients();
    }

  private:
    int64_t qk_blocks() const { return blocks_of(shape_.d_qk); }
    int64_t v_blocks() const { return blocks_of(shape_.d_v); }
    int64_t row_blocks() const { return blocks_of(rows_); }

    void carve(Carver& memory) {
        const int64_t padded = row_blocks() * kBlock, element = set_.element;
        keys_as_columns_ = memory.take(row_blocks() * set_.b_bytes(shape_.d_qk));
        values_as_columns_ = memory.take(row_blocks() * set_.b_bytes(shape_.d_v));
        keys_as_k_ = memory.take(qk_blocks() * set_.b_bytes(rows_));
        q_as_k_ = memory.take(qk_blocks() * set_.b_bytes(rows_));
        d_out_as_k_ = memory.take(v_blocks() * set_.b_bytes(rows_));
        whole_keys_ = memory.take(rows_ * shape_.d_qk * element);
        left_q_ = memory.take(kStripBlocks * set_.a_bytes(shape_.d_qk));
        left_d_out_ = memory.take(kStripBlocks * set_.a_bytes(shape_.d_v));
        left_ = memory.take(std::max(set_.a_bytes(rows_), set_.a_bytes(kStripRows)));
        p_ = memory.take(kStripRows * kBlock * element);
        d_s_ = memory.take(kStripRows * padded * element);
        scores_ = memory.floats(kBlockFloats);
        d_p_ = memory.floats(kBlockFloats);
        delta_ = memory.floats(rows_);
        dk_ = memory.floats(row_blocks() * qk_blocks() * kBlockFloats);
        dv_ = memory.floats(row_blocks() * v_blocks() * kBlockFloats);
        memory.floats(kBlock);  // stores of part of a block read a little beyond it
    }

    // Queries [first, first + 128) of the document, or as many as there are.
    void query_strip(int64_t first, int64_t head) {
        const int64_t rows = std::min(kStripRows, rows_ - first), blocks = blocks_of(rows);
        for (int64_t i = 0; i < blocks; ++i) {
            pack_left(set_, q_, first + i * kBlock, left_q_ + i * set_.a_bytes(shape_.d_qk));
            pack_left(set_, d_out_, first + i * kBlock, left_d_out_ + i * set_.a_bytes(shape_.d_v));
        }
        const int64_t key_blocks = first / kBlock + blocks;
        for (int64_t key = 0; key < key_blocks; ++key) {
            // Query blocks before `seen` see nothing of these keys.
            const int64_t seen = std::max<int64_t>(0, key - first / kBlock);
            for (int64_t i = seen; i < blocks; ++i) probabilities(first, i, key, key_blocks, head);
            // dV += Pᵀ dO and dK += dSᵀ Q over the strip's queries.
            const bool more = key * kBlock < first || head % (shape_.heads / shape_.kv_heads) > 0;
            const Strip strip{first, seen * kBlock, rows - seen * kBlock};
            accumulate({p_, kBlock, 0}, strip, {v_blocks(), d_out_as_k_},
                       dv_ + key * v_blocks() * kBlockFloats, more);
            accumulate({d_s_, key_blocks * kBlock, key * kBlock}, strip, {qk_blocks(), q_as_k_},
                       dk_ + key * qk_blocks() * kBlockFloats, more);
        }
        for (int64_t i = 0; i < blocks; ++i) store_dq(first, i, key_blocks, head);
    }

    // P and dS of the strip's query block i and one block of keys.
    void probabilities(int64_t first, int64_t i, int64_t key, int64_t key_blocks, int64_t head) {
        const int64_t row = first + i * kBlock, visible = row + 1 - key * kBlock;
        const int rows = static_cast<int>(std::min(kBlock, rows_ - row));
        set_.kernel.multiply(left_q_ + i * set_.a_bytes(shape_.d_qk),
                             keys_as_columns_ + key * set_.b_bytes(shape_.d_qk), shape_.d_qk, rows,
                             false, scores_);
        set_.kernel.multiply(left_d_out_ + i * set_.a_bytes(shape_.d_v),
                             values_as_columns_ + key * set_.b_bytes(shape_.d_v), shape_.d_v, rows,
                             false, d_p_);
        const int64_t keys = key_blocks * kBlock;
        kernels_.softmax_gradient(
            {scores_, d_p_, io_.lse.row<float>(head) + begin_ + row, delta_ + row, visible, rows,
             shape_.scale, p_ + i * kBlock * kBlock * set_.element,
             d_s_ + (i * kBlock * keys + key * kBlock) * set_.element, kBlock, keys});
    }

    struct StripColumns {  // 32 columns of the strip's P or dS
        const std::byte* data;
        int64_t stride, column;
    };

    struct Strip {
        int64_t first;        // query of the document
        int64_t begin, rows;  // of the strip
    };
    struct Right {
        int64_t panels;
        const std::byte* b;
    };

    // C (+)= Xᵀ · (rows of the strip of B) for each 32 columns of B.
    void accumulate(const StripColumns& x, Strip strip, Right right, float* c, bool more) {
        const void* x_rows[kStripRows];
        for (int64_t i = 0; i < strip.rows; ++i)
            x_rows[i] = x.data + (strip.begin + i) * x.stride * set_.element;
        set_.kernel.pack_a_transposed(
            {x_rows, strip.rows, 0, strip.rows, x.column, static_cast<int>(kBlock)}, left_);
        for (int64_t j = 0; j < right.panels; ++j)
            set_.kernel.multiply_transposed(left_,
                                            right.b + j * set_.b_bytes(rows_) +
                                                (strip.first + strip.begin) * kBlock * set_.element,
                                            strip.rows, static_cast<int>(kBlock), more,
                                            c + j * kBlockFloats);
    }

    // dQ = dS K of the strip's query block i.
    void store_dq(int64_t first, int64_t i, int64_t key_blocks, int64_t head) {
        const int64_t row = first + i * kBlock, keys = row + kBlock;
        RowView d_s;
        d_s.data = d_s_ + i * kBlock * key_blocks * kBlock * set_.element;
        d_s.stride = key_blocks * kBlock * set_.element;
        d_s.rows = std::min(kBlock, rows_ - row);
        d_s.columns = std::min(keys, rows_);
        pack_left(set_, d_s, 0, left_);
        for (int64_t j = 0; j < qk_blocks(); ++j) {
            const int64_t column = j * kBlock;
            set_.kernel.multiply(left_, keys_as_k_ + j * set_.b_bytes(rows_), d_s.columns,
                                 static_cast<int>(d_s.rows), false, scores_);
            const int64_t at = (begin_ + row) * io_.dq.row_stride() + head * shape_.d_qk + column;
            set_.epilogues.store(
                scores_,
                {io_.dq.raw() + at * set_.element, io_.dq.row_stride(), static_cast<int>(d_s.rows),
                 static_cast<int>(std::min(kBlock, shape_.d_qk - column))});
        }
    }

    // Columns [begin, end) of a gradient [keys][blocks of 32] to rows of `out`.
    struct Columns {
        int64_t begin = 0, end = 0;
    };
    template <class Store>
    void store_columns(const float* c, int64_t blocks, Columns columns, const Store& store) const {
        for (int64_t key = 0; key < rows_; key += kBlock)
            for (int64_t j = columns.begin / kBlock; j * kBlock < columns.end; ++j) {
                const int64_t from = std::max(columns.begin, j * kBlock);
                const int64_t to = std::min(columns.end, (j + 1) * kBlock);
                const float* block = c + (key / kBlock * blocks + j) * kBlockFloats;
                store(block + (from - j * kBlock), key, from - columns.begin,
                      static_cast<int>(std::min(kBlock, rows_ - key)), static_cast<int>(to - from));
            }
    }

    auto rounded_into(const Tensor& x, int64_t first_column) const {
        return [this, x, first_column](const float* c, int64_t key, int64_t column, int rows,
                                       int columns) {
            const int64_t at = (begin_ + key) * x.row_stride() + first_column + column;
            set_.epilogues.store(c, {x.raw() + at * set_.element, x.row_stride(), rows, columns});
        };
    }

    void store_gradients() const {
        const int64_t own = shape_.d_qk - shape_.d_shared;
        store_columns(dv_, v_blocks(), {0, shape_.d_v},
                      rounded_into(io_.dkv.v, kv_head_ * io_.dkv.v_head_stride));
        store_columns(dk_, qk_blocks(), {0, own},
                      rounded_into(io_.dkv.k_own, kv_head_ * io_.dkv.k_head_stride));
        if (shape_.d_shared == 0) return;
        store_columns(dk_, qk_blocks(), {own, shape_.d_qk},
                      [&](const float* c, int64_t key, int64_t column, int rows, int columns) {
                          set_.epilogues.store_f32(c, {d_shared_ + key * shape_.d_shared + column,
                                                       shape_.d_shared, rows, columns});
                      });
    }

    const AttentionShape& shape_;
    const ops::AttentionBackward& io_;
    const GemmSet set_;
    const AttentionKernels& kernels_;
    const int64_t begin_, rows_;  // of the document
    const int64_t kv_head_;
    float* const d_shared_;
    RowView q_, d_out_;
    std::byte *keys_as_columns_, *values_as_columns_, *keys_as_k_, *q_as_k_, *d_out_as_k_;
    std::byte *whole_keys_, *left_q_, *left_d_out_, *left_, *p_, *d_s_;
    float *scores_, *d_p_, *delta_, *dk_, *dv_;
};

// The gradient of the shared part: the heads' parts added in order.
void sum_shared(const AttentionShape& shape, const Tensor& parts, const Tensor& out) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    parallel_for(out.rows(), shape.kv_heads * shape.d_shared, [&](int64_t t) {
        auto* sum = reinterpret_cast<float*>(scratch(ScratchSlot::rows, shape.d_shared * 4));
        std::fill_n(sum, shape.d_shared, 0.0f);
        for (int64_t head = 0; head < shape.kv_heads; ++head)
            kernels.add({parts.row<float>(head * out.rows() + t), false}, sum, shape.d_shared);
        kernels.cast({sum, false}, cells(out, t), shape.d_shared);
    });
}

}  // namespace

void attention_backward(const AttentionShape& shape, const ops::AttentionBackward& io) {
    FUCINA_CHECK(io.q.dtype() == io.d_out.dtype() && io.q.dtype() == io.kv.k_own.dtype() &&
                     io.lse.defined() && io.lse.rows() == shape.heads,
                 "attention_backward of ", io.q.describe(), " and ", io.d_out.describe());
    const auto documents = static_cast<int64_t>(shape.cu_seqlens.size()) - 1;
    const int64_t rows = io.q.rows();
    Tensor parts;
    if (shape.d_shared > 0)
        parts = Tensor::empty({shape.kv_heads * rows, shape.d_shared}, DType::f32);
    parallel_tasks(documents * shape.kv_heads, [&](int64_t task) {
        const int64_t document = task / shape.kv_heads, head = task % shape.kv_heads;
        const auto i = static_cast<size_t>(document);
        const int64_t begin = shape.cu_seqlens[i];
        if (begin == shape.cu_seqlens[i + 1]) return;
        float* d_shared = parts.defined()
                              ? parts.data<float>() + (head * rows + begin) * shape.d_shared
                              : nullptr;
        KvHeadBackward(shape, io, document, head, d_shared).run();
    });
    if (parts.defined()) sum_shared(shape, parts, io.dkv.k_shared);
}

}  // namespace fucina::cpu
