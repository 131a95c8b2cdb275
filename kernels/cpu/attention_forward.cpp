// Flash attention: 32 queries at a time against strips of 128 keys, with a running maximum. The
// strips begin at the document's start, so a query's result depends on its document alone.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_operands.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

constexpr int64_t kStripBlocks = 4;

// Query blocks [begin, end) of one head of one document.
struct ForwardTask {
    int64_t document = 0, head = 0;
    int64_t begin = 0, end = 0;
};

std::vector<ForwardTask> forward_tasks(const AttentionShape& shape) {
    const int64_t documents = shape.documents();
    const int64_t units = documents * shape.heads, wanted = 4 * runtime().threads;
    const int64_t pieces =
        runtime().threads == 1 || units >= wanted || units == 0 ? 1 : (wanted + units - 1) / units;
    std::vector<ForwardTask> tasks;
    for (int64_t document = 0; document < documents; ++document) {
        const int64_t blocks = blocks_of(document_rows(shape, document));
        const int64_t width = std::max<int64_t>(4, (blocks + pieces - 1) / pieces);
        for (int64_t head = 0; head < shape.heads; ++head)
            for (int64_t begin = 0; begin < blocks; begin += width)
                tasks.push_back({document, head, begin, std::min(begin + width, blocks)});
    }
    return tasks;
}

// What a thread works in for one head of a document, of which it needs the first `keys` keys.
struct HeadMemory {
    std::byte *keys, *values, *query, *p, *left_p;
    float *scores, *sum, *lanes, *largest, *shrink;
    int64_t bytes;

    HeadMemory(const GemmSet& set, const AttentionShape& shape, int64_t key_count, Carver memory) {
        keys = memory.take(blocks_of(key_count) * set.b_bytes(shape.d_qk));
        values = memory.take(blocks_of(shape.d_v) * set.b_bytes(key_count));
        query = memory.take(set.a_bytes(shape.d_qk));
        p = memory.take(kStripBlocks * kBlockFloats * 4);
        left_p = memory.take(set.a_bytes(kStripBlocks * kBlock));
        scores = memory.floats(kStripBlocks * kBlockFloats);
        sum = memory.floats(blocks_of(shape.d_v) * kBlockFloats);
        lanes = memory.floats(kBlock * 16);
        largest = memory.floats(kBlock);
        shrink = memory.floats(kBlock);
        bytes = memory.used();
    }
};

class HeadForward {
  public:
    HeadForward(const AttentionShape& shape, const Tensor& q, const AttentionKv& kv,
                const ForwardTask& task)
        : shape_(shape),
          set_(gemm_set(q.dtype())),
          kernels_(attention_kernels(q.dtype())),
          begin_(shape.cu_seqlens.data<int64_t>()[task.document]),
          rows_(document_rows(shape, task.document)),
          q_(q, begin_, rows_, task.head * shape.d_qk, shape.d_qk),
          // Keys after the last query of the task are not needed.
          keys_(std::min(rows_, task.end * kBlock)),
          memory_(in_scratch<HeadMemory>(ScratchSlot::attention_head, set_, shape, keys_)) {
        const int64_t kv_head = task.head / (shape.heads / shape.kv_heads);
        const RowView v(kv.v, begin_, keys_, kv_head * kv.v_head_stride, shape.d_v);
        const BlockRange blocks{0, blocks_of(keys_)};
        HeadKeys(set_, shape, kv, kv_head, begin_, keys_).pack(blocks, true, memory_.keys, nullptr);
        pack_rows_as_k(set_, v, blocks, set_.b_bytes(keys_), memory_.values);
    }

    // Queries from row `first` of the document.
    void query_block(int64_t first, int64_t head, const Tensor& out, const Tensor& lse) {
        const int rows = static_cast<int>(std::min(kBlock, rows_ - first));
        const int64_t v_blocks = blocks_of(shape_.d_v);
        pack_left(set_, q_, first, memory_.query);
        std::fill_n(memory_.largest, kBlock, -std::numeric_limits<float>::infinity());
        std::fill_n(memory_.lanes, kBlock * 16, 0.0f);
        std::fill_n(memory_.sum, v_blocks * kBlockFloats, 0.0f);
        for (int64_t block = 0; block <= first / kBlock; block += kStripBlocks)
            strip(block, std::min(kStripBlocks, first / kBlock + 1 - block), first, rows);
        alignas(64) float log_sum[kBlock], inverse[kBlock];
        kernels_.finish(memory_.largest, memory_.lanes, rows, log_sum, inverse);
        kernels_.scale_rows({memory_.sum, v_blocks, rows, inverse});
        for (int64_t block = 0; block < v_blocks; ++block) {
            const int64_t column = block * kBlock;
            const int64_t at = (begin_ + first) * out.row_stride() + head * shape_.d_v + column;
            set_.epilogues.store(memory_.sum + block * kBlockFloats,
                                 {out.raw() + at * set_.element, out.row_stride(), rows,
                                  static_cast<int>(std::min(kBlock, shape_.d_v - column))});
        }
        if (lse.defined()) std::copy_n(log_sum, rows, lse.row<float>(head) + begin_ + first);
    }

  private:
    // Key blocks [block, block + blocks), of which the last may hold keys that some rows do not
    // see.
    void strip(int64_t block, int64_t blocks, int64_t first, int rows) {
        const int64_t key_bytes = set_.b_bytes(shape_.d_qk), keys = blocks * kBlock;
        for (int64_t i = 0; i < blocks; ++i)
            set_.kernel.multiply(memory_.query, memory_.keys + (block + i) * key_bytes, shape_.d_qk,
                                 rows, false, memory_.scores + i * kBlockFloats);
        kernels_.softmax({memory_.scores, keys, first + 1 - block * kBlock, rows, shape_.scale,
                          memory_.largest, memory_.lanes, memory_.shrink, memory_.p});
        RowView p;
        p.data = memory_.p;
        p.stride = keys * set_.element;
        p.rows = rows;
        p.columns = keys;
        pack_left(set_, p, 0, memory_.left_p);
        const int64_t v_blocks = blocks_of(shape_.d_v);
        if (block > 0) kernels_.scale_rows({memory_.sum, v_blocks, rows, memory_.shrink});
        for (int64_t i = 0; i < v_blocks; ++i)
            set_.kernel.multiply(
                memory_.left_p,
                memory_.values + i * set_.b_bytes(keys_) + block * kBlock * kBlock * set_.element,
                keys, rows, true, memory_.sum + i * kBlockFloats);
    }

    const AttentionShape& shape_;
    const GemmSet set_;
    const AttentionKernels& kernels_;
    const int64_t begin_, rows_;  // of the document
    const RowView q_;
    const int64_t keys_;
    const HeadMemory memory_;
};

}  // namespace

void attention(const AttentionShape& shape, const Tensor& q, const AttentionKv& kv,
               const Tensor& out, const Tensor& lse) {
    FUCINA_CHECK(q.dtype() == kv.k_own.dtype() && q.dtype() == kv.v.dtype() &&
                     q.dtype() == out.dtype() && q.row_size() == shape.heads * shape.d_qk &&
                     out.row_size() == shape.heads * shape.d_v,
                 "attention of ", q.describe(), " into ", out.describe());
    const std::vector<ForwardTask> tasks = forward_tasks(shape);
    parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
        const ForwardTask& task = tasks[static_cast<size_t>(i)];
        HeadForward head(shape, q, kv, task);
        for (int64_t block = task.begin; block < task.end; ++block)
            head.query_block(block * kBlock, task.head, out, lse);
    });
}

int64_t attention_scratch(const AttentionShape& shape, int64_t rows, DType type) {
    return bytes_for<HeadMemory>(gemm_set(type), shape, rows);
}

}  // namespace fucina::cpu
