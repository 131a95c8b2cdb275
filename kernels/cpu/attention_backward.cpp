// Backward of flash attention: P is formed again from the log-sum-exp, 128 queries at a time
// against blocks of 32 keys. dK and dV of a key are one chain over the queries that see it, heads
// of its group in order; dQ of a query is one chain over its keys. So it does not matter who sums:
// one thread a whole head, or, where a document has too few heads for the threads, all threads one
// head together, each spans of keys (dK, dV) or strips of queries (dQ), which form P and dS for
// themselves, 7 products for 5.
#include <algorithm>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_operands.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"
#include "kernels/tree_sum.h"

namespace fucina::cpu {
namespace {

constexpr int64_t kStripBlocks = 4;  // of 32 queries
constexpr int64_t kStripRows = kStripBlocks * kBlock;

int64_t strips_of(int64_t rows) {
    return (rows + kStripRows - 1) / kStripRows;
}

// One key-value head of a document of `rows` rows: its operands, packed, and its sums.
struct HeadPanels {
    std::byte *keys_as_columns, *values_as_columns, *keys_as_k, *q_as_k, *d_out_as_k;
    float *delta, *dk, *dv;

    HeadPanels(const GemmSet& set, const AttentionShape& shape, int64_t rows, Carver memory) {
        const int64_t blocks = blocks_of(rows);
        const int64_t qk_blocks = blocks_of(shape.d_qk), v_blocks = blocks_of(shape.d_v);
        keys_as_columns = memory.take(blocks * set.b_bytes(shape.d_qk));
        values_as_columns = memory.take(blocks * set.b_bytes(shape.d_v));
        keys_as_k = memory.take(qk_blocks * set.b_bytes(rows));
        q_as_k = memory.take(qk_blocks * set.b_bytes(rows));
        d_out_as_k = memory.take(v_blocks * set.b_bytes(rows));
        delta = memory.floats(rows);
        dk = memory.floats(blocks * qk_blocks * kBlockFloats);
        dv = memory.floats(blocks * v_blocks * kBlockFloats);
        memory.floats(kBlock);  // stores of part of a block read a little beyond it
        bytes = memory.used();
    }
    int64_t bytes;
};

// What a thread works in for a strip of queries.
struct StripMemory {
    std::byte *left_q, *left_d_out, *left, *p, *d_s;
    float *scores, *d_p;

    StripMemory(const GemmSet& set, const AttentionShape& shape, int64_t rows, Carver memory) {
        left_q = memory.take(kStripBlocks * set.a_bytes(shape.d_qk));
        left_d_out = memory.take(kStripBlocks * set.a_bytes(shape.d_v));
        left = memory.take(std::max(set.a_bytes(rows), set.a_bytes(kStripRows)));
        p = memory.take(kStripRows * kBlock * set.element);
        d_s = memory.take(kStripRows * blocks_of(rows) * kBlock * set.element);
        scores = memory.floats(kBlockFloats);
        d_p = memory.floats(kBlockFloats);
        bytes = memory.used();
    }
    int64_t bytes;
};

class DocumentBackward {
  public:
    // parts: fp32 [kv_heads * T, d_shared], each head's gradient of the shared keys, or undefined.
    DocumentBackward(const AttentionShape& shape, const ops::AttentionBackward& io,
                     const Tensor& parts, int64_t document)
        : shape_(shape),
          io_(io),
          parts_(parts),
          set_(gemm_set(io.q.dtype())),
          kernels_(attention_kernels(io.q.dtype())),
          begin_(shape.cu_seqlens.data<int64_t>()[document]),
          rows_(document_rows(shape, document)),
          panels_(in_scratch<HeadPanels>(ScratchSlot::attention_head, set_, shape, rows_)) {}

    // Key-value heads [first, last) on the calling thread.
    void run_alone(int64_t first, int64_t last) {
        const BlockRange all{0, blocks_of(rows_)};
        for (int64_t kv_head = first; kv_head < last; ++kv_head) {
            pack_keys(kv_head, all, kv_head == first);
            for (int64_t head = kv_head * group(); head < (kv_head + 1) * group(); ++head) {
                begin_head(head);
                pack_queries(all);
                for (int64_t s = 0; s < strips_of(rows_); ++s) strip(s, all, Sums::both);
            }
            store_gradients(kv_head, all);
        }
    }

    // All key-value heads, one after the other, on all threads.
    void run_together() {
        const int64_t pieces = strips_of(rows_);
        const auto piece = [&](int64_t i) {
            return BlockRange{i * kStripBlocks, std::min((i + 1) * kStripBlocks, blocks_of(rows_))};
        };
        for (int64_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
            parallel_tasks(pieces, [&](int64_t i) { pack_keys(kv_head, piece(i), kv_head == 0); });
            for (int64_t head = kv_head * group(); head < (kv_head + 1) * group(); ++head) {
                begin_head(head);
                parallel_tasks(pieces, [&](int64_t i) { pack_queries(piece(i)); });
                // The longest first: the first keys are seen by all queries, the last query sees
                // all keys.
                parallel_tasks(2 * pieces, [&](int64_t i) {
                    if (i % 2 == 1)
                        return strip(pieces - 1 - i / 2, {0, blocks_of(rows_)}, Sums::queries);
                    for (int64_t s = i / 2; s < pieces; ++s) strip(s, piece(i / 2), Sums::keys);
                });
            }
            parallel_tasks(pieces, [&](int64_t i) { store_gradients(kv_head, piece(i)); });
        }
    }

  private:
    enum class Sums { both, keys, queries };

    int64_t group() const { return shape_.heads / shape_.kv_heads; }
    int64_t qk_blocks() const { return blocks_of(shape_.d_qk); }
    int64_t v_blocks() const { return blocks_of(shape_.d_v); }

    void pack_keys(int64_t kv_head, BlockRange blocks, bool with_shared) const {
        const HeadKeys keys(set_, shape_, io_.kv, kv_head, begin_, rows_);
        const RowView v(io_.kv.v, begin_, rows_, kv_head * io_.kv.v_head_stride, shape_.d_v);
        keys.pack(blocks, with_shared, panels_.keys_as_columns, panels_.keys_as_k);
        pack_rows_as_columns(set_, v, blocks, set_.b_bytes(shape_.d_v), panels_.values_as_columns);
    }

    void begin_head(int64_t head) {
        head_ = head;
        q_ = RowView(io_.q, begin_, rows_, head * shape_.d_qk, shape_.d_qk);
        d_out_ = RowView(io_.d_out, begin_, rows_, head * shape_.d_v, shape_.d_v);
        out_ = RowView(io_.out, begin_, rows_, head * shape_.d_v, shape_.d_v);
    }

    void pack_queries(BlockRange blocks) const {
        const int64_t first = blocks.begin * kBlock;
        const int64_t rows = std::min(blocks.end * kBlock, rows_) - first;
        kernels_.row_dots({d_out_.data + first * d_out_.stride, out_.data + first * out_.stride,
                           d_out_.stride / set_.element, out_.stride / set_.element, shape_.d_v,
                           static_cast<int>(rows), panels_.delta + first});
        pack_rows_as_k(set_, q_, blocks, set_.b_bytes(rows_), panels_.q_as_k);
        pack_rows_as_k(set_, d_out_, blocks, set_.b_bytes(rows_), panels_.d_out_as_k);
    }

    struct Strip {
        StripMemory memory;
        int64_t first, blocks;  // blocks of queries of the document
        BlockRange keys;        // blocks of keys of the document that it sees
        int64_t key_columns() const { return (keys.end - keys.begin) * kBlock; }
    };

    // Strip `number` of the head's queries against the blocks of keys, as far as it sees them.
    void strip(int64_t number, BlockRange keys, Sums wanted) const {
        const int64_t first = number * kStripBlocks;
        const int64_t blocks = std::min(kStripBlocks, blocks_of(rows_) - first);
        const Strip s{in_scratch<StripMemory>(ScratchSlot::attention, set_, shape_, rows_),
                      first,
                      blocks,
                      {keys.begin, std::min(keys.end, first + blocks)}};
        for (int64_t i = 0; i < blocks; ++i) {
            const int64_t row = (first + i) * kBlock;
            pack_left(set_, q_, row, s.memory.left_q + i * set_.a_bytes(shape_.d_qk));
            pack_left(set_, d_out_, row, s.memory.left_d_out + i * set_.a_bytes(shape_.d_v));
        }
        for (int64_t key = s.keys.begin; key < s.keys.end; ++key) {
            // Query blocks before `seen` see nothing of these keys.
            const int64_t seen = std::max<int64_t>(0, key - first);
            for (int64_t i = seen; i < blocks; ++i) probabilities(s, i, key);
            if (wanted != Sums::queries) add_to_keys(s, key, seen);
        }
        if (wanted == Sums::keys) return;
        for (int64_t i = 0; i < blocks; ++i) store_dq(s, i);
    }

    // P and dS of the strip's query block i and one block of keys.
    void probabilities(const Strip& s, int64_t i, int64_t key) const {
        const int64_t row = (s.first + i) * kBlock, visible = row + 1 - key * kBlock;
        const int rows = static_cast<int>(std::min(kBlock, rows_ - row));
        set_.kernel.multiply(s.memory.left_q + i * set_.a_bytes(shape_.d_qk),
                             panels_.keys_as_columns + key * set_.b_bytes(shape_.d_qk), shape_.d_qk,
                             rows, false, s.memory.scores);
        set_.kernel.multiply(s.memory.left_d_out + i * set_.a_bytes(shape_.d_v),
                             panels_.values_as_columns + key * set_.b_bytes(shape_.d_v), shape_.d_v,
                             rows, false, s.memory.d_p);
        const int64_t keys = s.key_columns(), column = (key - s.keys.begin) * kBlock;
        kernels_.softmax_gradient(
            {s.memory.scores, s.memory.d_p, io_.lse.row<float>(head_) + begin_ + row,
             panels_.delta + row, visible, rows, shape_.scale,
             s.memory.p + i * kBlock * kBlock * set_.element,
             s.memory.d_s + (i * kBlock * keys + column) * set_.element, kBlock, keys});
    }

    // dV += Pᵀ dO and dK += dSᵀ Q over the strip's queries from block `seen`.
    void add_to_keys(const Strip& s, int64_t key, int64_t seen) const {
        const bool more = key < s.first || head_ % group() > 0;
        const int64_t begin = seen * kBlock;
        const int64_t rows = std::min(s.blocks * kBlock, rows_ - s.first * kBlock) - begin;
        const auto accumulate = [&](const std::byte* x, int64_t stride, int64_t column,
                                    const std::byte* b, int64_t panels, float* c) {
            // C (+)= Xᵀ · (rows of the strip of B) for each 32 columns of B.
            const void* x_rows[kStripRows];
            for (int64_t i = 0; i < rows; ++i) x_rows[i] = x + (begin + i) * stride * set_.element;
            set_.kernel.pack_a_transposed({x_rows, rows, 0, rows, column, static_cast<int>(kBlock)},
                                          s.memory.left);
            const int64_t offset = (s.first * kBlock + begin) * kBlock * set_.element;
            for (int64_t j = 0; j < panels; ++j)
                set_.kernel.multiply_transposed(s.memory.left, b + j * set_.b_bytes(rows_) + offset,
                                                rows, static_cast<int>(kBlock), more,
                                                c + j * kBlockFloats);
        };
        accumulate(s.memory.p, kBlock, 0, panels_.d_out_as_k, v_blocks(),
                   panels_.dv + key * v_blocks() * kBlockFloats);
        accumulate(s.memory.d_s, s.key_columns(), (key - s.keys.begin) * kBlock, panels_.q_as_k,
                   qk_blocks(), panels_.dk + key * qk_blocks() * kBlockFloats);
    }

    // dQ = dS K of the strip's query block i, against all keys.
    void store_dq(const Strip& s, int64_t i) const {
        const int64_t row = (s.first + i) * kBlock;
        RowView d_s;
        d_s.data = s.memory.d_s + i * kBlock * s.key_columns() * set_.element;
        d_s.stride = s.key_columns() * set_.element;
        d_s.rows = std::min(kBlock, rows_ - row);
        d_s.columns = std::min(row + kBlock, rows_);
        pack_left(set_, d_s, 0, s.memory.left);
        for (int64_t j = 0; j < qk_blocks(); ++j) {
            const int64_t column = j * kBlock;
            set_.kernel.multiply(s.memory.left, panels_.keys_as_k + j * set_.b_bytes(rows_),
                                 d_s.columns, static_cast<int>(d_s.rows), false, s.memory.scores);
            const int64_t at = (begin_ + row) * io_.dq.row_stride() + head_ * shape_.d_qk + column;
            set_.epilogues.store(
                s.memory.scores,
                {io_.dq.raw() + at * set_.element, io_.dq.row_stride(), static_cast<int>(d_s.rows),
                 static_cast<int>(std::min(kBlock, shape_.d_qk - column))});
        }
    }

    // Columns [begin, end) of a gradient [keys][blocks of 32] to rows of `out`.
    struct Columns {
        int64_t begin = 0, end = 0;
    };
    template <class Store>
    void store_columns(const float* c, int64_t blocks, BlockRange keys, Columns columns,
                       const Store& store) const {
        for (int64_t key = keys.begin; key < keys.end; ++key)
            for (int64_t j = columns.begin / kBlock; j * kBlock < columns.end; ++j) {
                const int64_t from = std::max(columns.begin, j * kBlock);
                const int64_t to = std::min(columns.end, (j + 1) * kBlock);
                const float* block = c + (key * blocks + j) * kBlockFloats;
                store(block + (from - j * kBlock), key * kBlock, from - columns.begin,
                      static_cast<int>(std::min(kBlock, rows_ - key * kBlock)),
                      static_cast<int>(to - from));
            }
    }

    auto rounded_into(const Tensor& x, int64_t first_column) const {
        return [this, x, first_column](const float* c, int64_t row, int64_t column, int rows,
                                       int columns) {
            const int64_t at = (begin_ + row) * x.row_stride() + first_column + column;
            set_.epilogues.store(c, {x.raw() + at * set_.element, x.row_stride(), rows, columns});
        };
    }

    void store_gradients(int64_t kv_head, BlockRange keys) const {
        const int64_t own = shape_.d_qk - shape_.d_shared;
        store_columns(panels_.dv, v_blocks(), keys, {0, shape_.d_v},
                      rounded_into(io_.dkv.v, kv_head * io_.dkv.v_head_stride));
        store_columns(panels_.dk, qk_blocks(), keys, {0, own},
                      rounded_into(io_.dkv.k_own, kv_head * io_.dkv.k_head_stride));
        if (shape_.d_shared == 0) return;
        const Tensor rows_of_head =
            parts_.slice(kv_head * io_.q.rows() + begin_, kv_head * io_.q.rows() + begin_ + rows_);
        store_columns(panels_.dk, qk_blocks(), keys, {own, shape_.d_qk},
                      [&](const float* c, int64_t row, int64_t column, int rows, int columns) {
                          set_.epilogues.store_f32(c, {rows_of_head.row<float>(row) + column,
                                                       shape_.d_shared, rows, columns});
                      });
    }

    const AttentionShape& shape_;
    const ops::AttentionBackward& io_;
    const Tensor& parts_;
    const GemmSet set_;
    const AttentionKernels& kernels_;
    const int64_t begin_, rows_;  // of the document
    const HeadPanels panels_;
    int64_t head_ = 0;
    RowView q_, d_out_, out_;  // of head_
};

// Who does what: documents whose heads all threads share, and the others' heads, the longest first.
struct Plan {
    struct Task {
        int64_t document, first, last;  // key-value heads
        int64_t rows;
    };
    std::vector<int64_t> together;
    std::vector<Task> alone;
};

Plan make_plan(const AttentionShape& shape) {
    const int64_t documents = shape.documents();
    const int64_t threads = runtime().threads;
    double total = 0;
    for (int64_t i = 0; i < documents; ++i) {
        const auto rows = static_cast<double>(document_rows(shape, i));
        total += rows * rows * static_cast<double>(shape.kv_heads);
    }
    Plan plan;
    const int64_t enough = 8 * threads;  // tasks; with more, one takes several heads of a document
    const int64_t heads =
        std::clamp<int64_t>(documents * shape.kv_heads / enough, 1, shape.kv_heads);
    for (int64_t i = 0; i < documents; ++i) {
        const int64_t rows = document_rows(shape, i);
        if (rows == 0) continue;
        // Worth 7 products for 5: when one head is more than a thread's share of all the work, and
        // the threads, as far as there are strips for them, are that many more than heads.
        const double head = static_cast<double>(rows) * static_cast<double>(rows);
        const int64_t useful = std::min(threads, strips_of(rows));
        if (head * static_cast<double>(threads) > total && 5 * useful > 7 * shape.kv_heads) {
            plan.together.push_back(i);
            continue;
        }
        for (int64_t first = 0; first < shape.kv_heads; first += heads)
            plan.alone.push_back({i, first, std::min(first + heads, shape.kv_heads), rows});
    }
    std::ranges::stable_sort(plan.alone, std::ranges::greater(), [](const Plan::Task& task) {
        return task.rows * task.rows * (task.last - task.first);
    });
    return plan;
}

// The gradient of the shared part: the heads' parts added in order, chunk by chunk.
void sum_shared(const AttentionShape& shape, const Tensor& parts, const Tensor& out) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    const int64_t width = shape.d_shared, heads = shape.kv_heads / shape.chunks;
    parallel_for(out.rows(), shape.kv_heads * width, [&](int64_t t) {
        auto* sums = reinterpret_cast<float*>(scratch(ScratchSlot::rows, kPartialSums * width * 4));
        sum_chunks(
            shape.chunks, sums, width,
            [&](int64_t chunk, float* sum) {
                std::fill_n(sum, width, 0.0f);
                for (int64_t head = chunk * heads; head < (chunk + 1) * heads; ++head)
                    kernels.add({parts.row<float>(head * out.rows() + t), false}, sum, width);
            },
            [&](float* x, float* y) {
                kernels.add({x, false}, y, width);
            });
        kernels.cast({sums, false}, cells(out, t), width);
    });
}

}  // namespace

void attention_backward(const AttentionShape& shape, const ops::AttentionBackward& io) {
    FUCINA_CHECK(io.q.dtype() == io.d_out.dtype() && io.q.dtype() == io.kv.k_own.dtype() &&
                     io.lse.defined() && io.lse.rows() == shape.heads,
                 "attention_backward of ", io.q.describe(), " and ", io.d_out.describe());
    Tensor parts;
    if (shape.d_shared > 0) {
        check_chunks(shape.chunks, shape.kv_heads, "key-value heads");
        const Tensor& shared = io.dkv.k_shared;
        FUCINA_CHECK(shared.dtype() == io.q.dtype() || shared.dtype() == DType::f32,
                     "shared keys of ", io.q.describe(), " have a gradient ", shared.describe());
        parts = Tensor::empty({shape.kv_heads * io.q.rows(), shape.d_shared}, DType::f32);
    }
    const Plan plan = make_plan(shape);
    for (const int64_t document : plan.together)
        DocumentBackward(shape, io, parts, document).run_together();
    parallel_tasks(static_cast<int64_t>(plan.alone.size()), [&](int64_t i) {
        const Plan::Task& task = plan.alone[static_cast<size_t>(i)];
        DocumentBackward(shape, io, parts, task.document).run_alone(task.first, task.last);
    });
    if (parts.defined()) sum_shared(shape, parts, io.dkv.k_shared);
}

// Forward's memory for a head is taken from the same slot as backward's.
int64_t attention_backward_scratch(const AttentionShape& shape, DType type) {
    const GemmSet set = gemm_set(type);
    const Plan plan = make_plan(shape);
    const int64_t threads = runtime().threads;
    int64_t panels = 0, strips = 0;
    const auto count = [&](int64_t rows, bool together) {
        const int64_t one = bytes_for<HeadPanels>(set, shape, rows);
        const int64_t forward = attention_scratch(shape, rows, type);
        const int64_t others = (threads - 1) * (together ? forward : std::max(one, forward));
        panels = std::max(panels, std::max(one, forward) + others);
        strips = std::max(strips, bytes_for<StripMemory>(set, shape, rows));
    };
    for (const int64_t document : plan.together) count(document_rows(shape, document), true);
    for (const Plan::Task& task : plan.alone) count(task.rows, false);
    return panels + threads * strips;
}

}  // namespace fucina::cpu
