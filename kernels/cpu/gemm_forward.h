// The loop over y = x Wᵀ, dense and grouped: rows of x are packed once per task into thread-local
// scratch that stays in L2; weight panels are the outer loop and blocks of 32 rows the inner one,
// so that a panel stays in L1; finished blocks go to the caller's epilogue while they lie in L1.
// Chunks of K (kernels/k_cut.h) are summed there too, block by block.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"
#include "kernels/tree_sum.h"

namespace fucina::cpu {

constexpr int64_t kLeftBytes = 384 << 10;  // of packed rows in a task: less than half of L2

struct GemmTask {
    int64_t group = 0;
    int64_t row_begin = 0, row_end = 0;      // of the product
    int64_t panel_begin = 0, panel_end = 0;  // 32 columns each
};

// Rows of a group are cut evenly into chunks; when that gives too few tasks for the threads, the
// panels are cut as well (not if whole_rows: the epilogue sums along rows).
inline std::vector<GemmTask> forward_tasks(std::span<const int64_t> offsets, int64_t panels,
                                           int64_t block_bytes, bool whole_rows) {
    const int64_t most = std::max<int64_t>(1, kLeftBytes / block_bytes) * kBlock;
    std::vector<GemmTask> tasks;
    for (size_t g = 0; g + 1 < offsets.size(); ++g) {
        const int64_t rows = offsets[g + 1] - offsets[g];
        if (rows == 0) continue;
        int64_t chunks = (rows + most - 1) / most;
        if (offsets.size() == 2 && chunks > 1)  // as many for every thread
            chunks = round_up(chunks, runtime().threads);
        const int64_t chunk = round_up((rows + chunks - 1) / chunks, kBlock);
        for (int64_t row = 0; row < rows; row += chunk)
            tasks.push_back({static_cast<int64_t>(g), offsets[g] + row,
                             offsets[g] + std::min(row + chunk, rows), 0, panels});
    }
    const auto wanted = static_cast<size_t>(4 * runtime().threads);
    if (whole_rows || runtime().threads == 1 || tasks.empty() || tasks.size() >= wanted)
        return tasks;
    const auto pieces = static_cast<int64_t>((wanted + tasks.size() - 1) / tasks.size());
    const int64_t width = std::max<int64_t>(4, (panels + pieces - 1) / pieces);
    std::vector<GemmTask> cut;
    for (GemmTask task : tasks)
        for (int64_t panel = 0; panel < panels; panel += width) {
            task.panel_begin = panel;
            task.panel_end = std::min(panel + width, panels);
            cut.push_back(task);
        }
    return cut;
}

// [groups + 1]
inline std::vector<int64_t> offsets_of(const RowGroups& rows) {
    if (!rows.offsets.defined()) return {0, rows.rows};
    const int64_t* const offsets = rows.offsets.data<int64_t>();
    return {offsets, offsets + rows.offsets.size()};
}

struct ForwardProduct {
    Tensor x;
    RowGroups rows;
    const PackedWeight& w;
    bool whole_rows = false;
};

// The rows of a task as left operands, blocks of 32.
class TaskRows {
  public:
    TaskRows(const ForwardProduct& in, const GemmSet& set, const GemmTask& task)
        : in_(in),
          set_(set),
          pieces_(pieces_of(in.w)),
          index_(in.rows.index.data_or_null<int32_t>()),
          end_(task.row_end),
          row_bytes_(in.x.row_stride() * set.element) {}

    // Packs rows [first, first + 32), and asks for the 32 after them: they may lie anywhere, which
    // no hardware prefetcher foresees.
    void pack(int64_t first, std::byte* out) const {
        const int count = static_cast<int>(std::min(kBlock, end_ - first));
        if (in_.w.fp8()) quantize(first, count, out);
        for (int64_t piece = 0; !in_.w.fp8() && piece < pieces_.count(); ++piece) {
            const void* rows[kBlock] = {};
            const int64_t offset = pieces_.begin(piece) * set_.element;
            for (int i = 0; i < count; ++i) rows[i] = address(first + i) + offset;
            set_.kernel.pack_a(rows, count, pieces_.length,
                               out + piece * set_.a_bytes(pieces_.length));
        }
        for (int64_t row = first + kBlock; row < std::min(first + 2 * kBlock, end_); ++row)
            for (int64_t byte = 0; byte < in_.w.k * set_.element; byte += 64)
                __builtin_prefetch(address(row) + byte, 0, 2);
    }

  private:
    // Blocks of 128 of k, then the scales of each one's rows.
    void quantize(int64_t first, int count, std::byte* out) const {
        const Fp8Kernels& fp8 = FUCINA_PICK(kFp8Kernels);
        auto* scales = reinterpret_cast<float*>(out + set_.a_bytes(in_.w.k));
        for (int64_t piece = 0; piece < pieces_.count(); ++piece)
            for (int64_t k = 0; k < pieces_.length; k += kFp8Block, scales += kBlock) {
                const int64_t width = std::min(kFp8Block, pieces_.length - k);
                alignas(64) uint16_t values[kBlock * kFp8Block];
                const void* rows[kBlock] = {};
                std::fill_n(scales, kBlock, 0.0f);
                for (int i = 0; i < count; ++i) {
                    uint16_t* const row = values + i * kFp8Block;
                    const auto* x = reinterpret_cast<const uint16_t*>(address(first + i));
                    scales[i] = fp8.quantize_row(x + pieces_.begin(piece) + k, width, row);
                    rows[i] = row;
                }
                set_.kernel.pack_a(rows, count, width, out);
                out += set_.a_bytes(width);
            }
    }
    const std::byte* address(int64_t row) const {
        return in_.x.raw() + (index_ == nullptr ? row : index_[row]) * row_bytes_;
    }

    const ForwardProduct& in_;
    const GemmSet& set_;
    const KPieces pieces_;
    const int32_t* const index_;
    const int64_t end_, row_bytes_;
};

// Small products stay on the calling thread: waking another costs more, and on a busy machine,
// where one waits for a thread that does not run, much more.
template <class Body>
void run_tasks(const ForwardProduct& in, const std::vector<GemmTask>& tasks, const Body& body) {
    constexpr int64_t kWorth = int64_t{1} << 18;  // multiplications
    if (in.rows.rows * in.w.n * in.w.k < kWorth) {
        flush_denormals();
        for (const GemmTask& task : tasks) body(task);
        return;
    }
    parallel_tasks(static_cast<int64_t>(tasks.size()),
                   [&](int64_t i) { body(tasks[static_cast<size_t>(i)]); });
}

// The blocks of a weight's product, chunk by chunk of K.
class BlockProduct {
  public:
    BlockProduct(const GemmSet& set, const PackedWeight& w)
        : set_(set),
          pieces_(pieces_of(w)),
          a_bytes_(set.a_bytes(pieces_.length)),
          b_bytes_(set.b_bytes(pieces_.length)),
          scale_bytes_(w.fp8() ? GemmSet::scale_bytes(w.k) : 0) {}

    int64_t block_bytes() const { return set_.a_bytes(pieces_) + scale_bytes_; }  // of 32 rows of x
    int64_t panel_bytes() const { return set_.b_bytes(pieces_) + scale_bytes_; }
    bool takes_few() const { return scale_bytes_ == 0 && set_.kernel.multiply_few != nullptr; }

    // sums: kPartialSums times kPartialFloats; A · B becomes the first block.
    void one(const std::byte* a, const std::byte* b, int rows, float* sums) const {
        along_tree(sums, [&](int64_t piece, const ChunkSums& to) {
            if (scale_bytes_ > 0) return add_fp8(a, b, piece, rows, to);
            set_.kernel.multiply_chunk(a + piece * a_bytes_, b + piece * b_bytes_, pieces_.length,
                                       rows, to);
        });
    }

    // The same for a few rows and panels, which become the first blocks.
    void few(const std::byte* a, const PanelsOfB& b, int rows, float* sums) const {
        along_tree(sums, [&](int64_t piece, const ChunkSums& to) {
            const auto* data = static_cast<const std::byte*>(b.data) + piece * b_bytes_;
            set_.kernel.multiply_few(a + piece * a_bytes_, {data, b.stride, b.count},
                                     pieces_.length, rows, to);
        });
    }

  private:
    void add_fp8(const std::byte* a, const std::byte* b, int64_t piece, int rows,
                 ChunkSums to) const {
        const auto* x_scales = reinterpret_cast<const float*>(a + set_.a_bytes(pieces_));
        const auto* w_scales = reinterpret_cast<const float*>(b + set_.b_bytes(pieces_));
        const int64_t begin = piece * (pieces_.length / kFp8Block) * kBlock;
        a += piece * a_bytes_;
        b += piece * b_bytes_;
        x_scales += begin;
        w_scales += begin;
        for (int64_t k = 0; k < pieces_.length; k += kFp8Block) {
            alignas(64) float part[kBlock * kBlock];
            const int64_t width = std::min(kFp8Block, pieces_.length - k);
            set_.kernel.multiply(a, b, width, rows, false, part);
            FUCINA_PICK(kFp8Kernels)
                .promote(part, x_scales, w_scales, rows, to.more || k > 0, to.c);
            a += set_.a_bytes(width);
            b += set_.b_bytes(width);
            x_scales += kBlock;
            w_scales += kBlock;
        }
        for (; to.merges > 0; --to.merges, to.c -= kPartialFloats)
            set_.epilogues.add(to.c, to.c - kPartialFloats, rows * kBlock);
    }
    template <class Multiply>
    void along_tree(float* next, const Multiply& multiply) const {
        for (int64_t chunk = 0; chunk < pieces_.chunks; ++chunk) {
            const int merges = merges_after(chunk);
            for (int64_t part = 0; part < pieces_.parts; ++part)
                multiply(chunk * pieces_.parts + part,
                         {next, part > 0, part + 1 == pieces_.parts ? merges : 0});
            next += (1 - merges) * kPartialFloats;
        }
    }

    const GemmSet& set_;
    const KPieces pieces_;
    const int64_t a_bytes_, b_bytes_;  // of a piece
    const int64_t scale_bytes_;        // of FP8, after them
};

// Epilogue: begin(task), block(c, task, row, rows, panel), end(task), from one thread per task.
// Panels of a row block come in ascending order.
template <class Epilogue>
void run_forward(const ForwardProduct& in, const Epilogue& epilogue) {
    const GemmSet set = gemm_set(in.w.dtype);
    const BlockProduct product(set, in.w);
    const int64_t panel_count = packed_panels(in.w);
    const int64_t block_bytes = product.block_bytes(), panel_bytes = product.panel_bytes();
    const std::vector<GemmTask> tasks =
        forward_tasks(offsets_of(in.rows), panel_count, block_bytes, in.whole_rows);
    run_tasks(in, tasks, [&](const GemmTask& task) {
        const TaskRows rows_of_x(in, set, task);
        std::byte* const left =
            scratch(ScratchSlot::left,
                    round_up(task.row_end - task.row_begin, kBlock) / kBlock * block_bytes);
        const std::byte* right = in.w.storage.raw() + task.group * panel_count * panel_bytes;
        alignas(64) float blocks[kPartialSums * kPartialFloats];
        epilogue.begin(task);
        const auto task_rows = static_cast<int>(task.row_end - task.row_begin);
        if (task_rows <= kFewRows && product.takes_few()) {
            rows_of_x.pack(task.row_begin, left);
            for (int64_t panel = task.panel_begin; panel < task.panel_end; panel += kFewPanels) {
                const int64_t panels = std::min<int64_t>(kFewPanels, task.panel_end - panel);
                product.few(left,
                            {right + panel * panel_bytes, panel_bytes, static_cast<int>(panels)},
                            task_rows, blocks);
                for (int64_t j = 0; j < panels; ++j)
                    epilogue.block(blocks + j * kBlock * kBlock, task, task.row_begin, task_rows,
                                   panel + j);
            }
            epilogue.end(task);
            return;
        }
        for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel)
            for (int64_t row = task.row_begin; row < task.row_end; row += kBlock) {
                const int rows = static_cast<int>(std::min(kBlock, task.row_end - row));
                std::byte* const block = left + (row - task.row_begin) / kBlock * block_bytes;
                if (panel == task.panel_begin) rows_of_x.pack(row, block);
                product.one(block, right + panel * panel_bytes, rows, blocks);
                epilogue.block(blocks, task, row, rows, panel);
            }
        epilogue.end(task);
    });
}

}  // namespace fucina::cpu
