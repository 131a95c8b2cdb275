// dW = dyᵀ x along a LeafTree. A task owns a rectangle of dW: x's columns of it are packed once,
// dy's 128 at a time; each 32 x 32 block then walks all leaves with its partial sums on an L1 stack
// and is written once.
#include <xmmintrin.h>

#include <algorithm>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

constexpr int64_t kSpan = 1024;           // rows of a leaf packed at once
constexpr int64_t kRightBytes = 8 << 20;  // of packed x in a task
constexpr int64_t kLeftBlocks = 4;        // of 32 columns of dy, packed at once
constexpr int64_t kBlockFloats = kBlock * kBlock;

// Products of some groups: dy and x taken through an index or null, a group's rows, and their tree.
struct GroupWgrads {
    Tensor dy, x;
    const int32_t *dy_index = nullptr, *x_index = nullptr;
    std::vector<int64_t> first_rows = {};  // of each group
    std::vector<LeafTree> trees = {};
    bool fp8 = false;
    int64_t step() const { return fp8 ? kFp8Block : kBlock; }  // rows that are packed together
};

struct WgradTask {
    int64_t group = 0;
    int64_t block_begin = 0, block_end = 0;  // of 32 rows of dW
    int64_t panel_begin = 0, panel_end = 0;  // of 32 columns of dW
};

// Where each leaf begins in the packed operands: leaves are padded to 32 rows alone.
std::vector<int64_t> padded_offsets(const LeafTree& tree) {
    std::vector<int64_t> padded{0};
    for (size_t leaf = 0; leaf < tree.merges.size(); ++leaf)
        padded.push_back(padded.back() +
                         round_up(tree.offsets[leaf + 1] - tree.offsets[leaf], kBlock));
    return padded;
}

// Partial sums alive at once while the tree is walked.
int64_t stack_depth(const LeafTree& tree) {
    int64_t depth = 0, most = 1;
    for (const int merges : tree.merges) {
        most = std::max(most, ++depth);
        depth -= merges;
    }
    FUCINA_CHECK(depth == std::min<int64_t>(1, tree.leaves()), "a tree of ", tree.leaves(),
                 " leaves leaves ", depth, " sums");
    return most;
}

// One leaf goes by spans of rows that leave room in L2, equal but for the last; more leaves go all
// at once.
int64_t rows_at_once(const LeafTree& tree, int64_t step) {
    if (tree.leaves() != 1) return padded_offsets(tree).back();
    const int64_t spans = std::max<int64_t>(1, (tree.rows() + kSpan / 2) / kSpan);
    return round_up((tree.rows() + spans - 1) / spans, step);
}

void cut(std::vector<WgradTask>& tasks, int64_t WgradTask::*begin, int64_t WgradTask::*end,
         int64_t width) {
    std::vector<WgradTask> pieces;
    for (WgradTask task : tasks)
        for (int64_t first = task.*begin, last = task.*end; first < last; first += width) {
            task.*begin = first;
            task.*end = std::min(first + width, last);
            pieces.push_back(task);
        }
    tasks = std::move(pieces);
}

std::vector<WgradTask> wgrad_tasks(const GroupWgrads& in, const GemmSet& set, int64_t blocks,
                                   int64_t panels) {
    std::vector<WgradTask> tasks;
    int64_t most_rows = 1;
    for (size_t g = 0; g < in.trees.size(); ++g) {
        tasks.push_back({static_cast<int64_t>(g), 0, blocks, 0, panels});
        most_rows = std::max(most_rows, rows_at_once(in.trees[g], in.step()));
    }
    const int64_t width = std::max<int64_t>(1, kRightBytes / set.b_bytes(most_rows));
    cut(tasks, &WgradTask::panel_begin, &WgradTask::panel_end, width);
    // Packing is repeated in each piece, hence few of them, and no smaller than 4 blocks.
    const auto pieces = [&] {
        const auto wanted =
            static_cast<int64_t>(runtime().threads == 1 ? 1 : 2 * runtime().threads);
        const auto count = std::max<int64_t>(1, static_cast<int64_t>(tasks.size()));
        return (wanted + count - 1) / count;
    };
    cut(tasks, &WgradTask::block_begin, &WgradTask::block_end,
        std::max<int64_t>(8, (blocks + pieces() - 1) / pieces()));
    cut(tasks, &WgradTask::panel_begin, &WgradTask::panel_end,
        std::max<int64_t>(4, (std::min(panels, width) + pieces() - 1) / pieces()));
    cut(tasks, &WgradTask::block_begin, &WgradTask::block_end,
        std::max<int64_t>(4, (blocks + pieces() - 1) / pieces()));
    // The longest first, so that threads end together.
    std::stable_sort(tasks.begin(), tasks.end(), [&](const WgradTask& a, const WgradTask& b) {
        return in.trees[static_cast<size_t>(a.group)].rows() >
               in.trees[static_cast<size_t>(b.group)].rows();
    });
    return tasks;
}

// What dW holds already, and whether more is to come.
struct Target {
    bool more = false;      // the first leaf's sum starts from dW
    bool finished = false;  // nobody reads dW soon
};

// Some consecutive rows of a group, summed along a tree into a rectangle of dW.
class GroupWgrad {
  public:
    GroupWgrad(const GroupWgrads& in, const GemmSet& set, int64_t first_row, const LeafTree& tree,
               Target target)
        : in_(in),
          set_(set),
          target_(target),
          tree_(tree),
          padded_(padded_offsets(tree)),
          stack_(reinterpret_cast<float*>(
              scratch(ScratchSlot::rows, stack_depth(tree) * kBlockFloats * 4))),
          dy_rows_(rows_of(in.dy, in.dy_index, first_row)),
          x_rows_(rows_of(in.x, in.x_index, first_row)) {}

    void run(const WgradTask& task, float* dw) const {
        const std::byte* right = pack_right(task);
        for (int64_t first = task.block_begin; first < task.block_end; first += kLeftBlocks) {
            const int64_t end = std::min(first + kLeftBlocks, task.block_end);
            const std::byte* left = pack_left(first, end);
            for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel)
                for (int64_t block = first; block < end; ++block) {
                    const bool last = block + 1 == end;
                    if (target_.more)
                        prefetch(target_block(last ? first : block + 1, panel + last, dw));
                    multiply(target_block(block, panel, dw), left + (block - first) * left_bytes(),
                             right + (panel - task.panel_begin) * right_bytes());
                }
        }
        _mm_sfence();
    }

  private:
    std::vector<const void*> rows_of(const Tensor& x, const int32_t* index, int64_t begin) const {
        std::vector<const void*> rows;
        for (int64_t i = 0; i < tree_.rows(); ++i) {
            const int64_t row = index == nullptr ? begin + i : index[begin + i];
            rows.push_back(x.raw() + row * x.row_stride() * set_.element);
        }
        return rows;
    }

    // Then, with FP8, the scales of a block of tokens, as many floats as it has columns.
    int64_t left_bytes() const { return left_data() + scale_bytes(); }
    int64_t right_bytes() const { return right_data() + scale_bytes(); }
    int64_t left_data() const { return padded_.back() * set_.kernel.a_bytes_per_k; }
    int64_t right_data() const { return padded_.back() * kBlock * set_.element; }
    int64_t scale_bytes() const { return in_.fp8 ? padded_.back() * 4 : 0; }
    float* scales(const std::byte* operand, int64_t data, int64_t leaf, int64_t token) const {
        return reinterpret_cast<float*>(const_cast<std::byte*>(operand) + data) +
               padded_[static_cast<size_t>(leaf)] + token;
    }
    int64_t left_offset(int64_t leaf) const {
        return padded_[static_cast<size_t>(leaf)] * set_.kernel.a_bytes_per_k;
    }
    int64_t right_offset(int64_t leaf) const {
        return padded_[static_cast<size_t>(leaf)] * kBlock * set_.element;
    }
    int64_t leaf_rows(int64_t leaf) const {
        const auto i = static_cast<size_t>(leaf);
        return tree_.offsets[i + 1] - tree_.offsets[i];
    }

    struct Source {
        const std::vector<const void*>& rows;
        int64_t width;
    };
    // pack(columns, leaf, block) for blocks of 32 columns in [begin, end), all columns of some
    // tokens before the next: rows are read along.
    template <class Pack>
    void pack_blocks(const Source& from, int64_t begin, int64_t end, const Pack& pack) const {
        for (int64_t leaf = 0; leaf < tree_.leaves(); ++leaf) {
            const int64_t rows = leaf_rows(leaf);
            const void* const* first = from.rows.data() + tree_.offsets[static_cast<size_t>(leaf)];
            for (int64_t token = 0; token < rows; token += in_.step())
                for (int64_t block = begin; block < end; ++block) {
                    const int64_t column = block * kBlock;
                    pack(
                        TokenColumns{first, rows, token, std::min(token + in_.step(), rows), column,
                                     static_cast<int>(std::min(kBlock, from.width - column))},
                        leaf, block - begin);
                }
        }
    }
    const std::byte* pack_left(int64_t begin, int64_t end) const {
        std::byte* left = scratch(ScratchSlot::left, (end - begin) * left_bytes());
        pack_blocks(
            {dy_rows_, in_.dy.row_size()}, begin, end,
            [&](const TokenColumns& columns, int64_t leaf, int64_t block) {
                std::byte* const to = left + block * left_bytes() + left_offset(leaf);
                if (in_.fp8)
                    return quantize(
                        columns,
                        scales(left + block * left_bytes(), left_data(), leaf, columns.begin),
                        [&](const TokenColumns& values) {
                            set_.kernel.pack_a_transposed(
                                values, to + columns.begin * set_.kernel.a_bytes_per_k);
                        });
                set_.kernel.pack_a_transposed(columns, to);
            });
        return left;
    }
    const std::byte* pack_right(const WgradTask& task) const {
        std::byte* right =
            scratch(ScratchSlot::right, (task.panel_end - task.panel_begin) * right_bytes());
        pack_blocks(
            {x_rows_, in_.x.row_size()}, task.panel_begin, task.panel_end,
            [&](const TokenColumns& columns, int64_t leaf, int64_t panel) {
                std::byte* const to = right + panel * right_bytes() + right_offset(leaf);
                if (in_.fp8)
                    return quantize(
                        columns,
                        scales(right + panel * right_bytes(), right_data(), leaf, columns.begin),
                        [&](const TokenColumns& values) {
                            set_.tools.pack_b_tokens(values, to + set_.b_bytes(columns.begin));
                        });
                set_.tools.pack_b_tokens(columns, to);
            });
        return right;
    }

    template <class Pack>
    static void quantize(const TokenColumns& in, float* scales, const Pack& pack) {
        alignas(64) uint16_t values[kFp8Block * kBlock];
        const void* rows[kFp8Block];
        const int64_t count = in.end - in.begin;
        FUCINA_PICK(kFp8Kernels)
            .quantize_tokens({in.rows + in.begin, count, 0, count, in.column, in.columns}, values,
                             scales);
        for (int64_t i = 0; i < kFp8Block; ++i) rows[i] = values + i * kBlock;
        pack({rows, count, 0, count, 0, in.columns});
    }

    StoreBlock target_block(int64_t block, int64_t panel, float* dw) const {
        const int64_t n = in_.dy.row_size(), k = in_.x.row_size();
        const int64_t row = block * kBlock, column = panel * kBlock;
        return {dw + row * k + column, k, static_cast<int>(std::min(kBlock, n - row)),
                static_cast<int>(std::min(kBlock, k - column))};
    }
    static void prefetch(const StoreBlock& block) {
        if (block.columns <= 0) return;  // beyond the last panel
        const auto* row = static_cast<const float*>(block.out);
        for (int i = 0; i < block.rows; ++i, row += block.stride) {
            __builtin_prefetch(row, 1);
            __builtin_prefetch(row + block.columns - 1, 1);
        }
    }
    void multiply(const StoreBlock& out, const std::byte* left, const std::byte* right) const {
        if (target_.more) set_.epilogues.load_f32(out, stack_);
        walk_tree(left, right, out.rows);
        (target_.finished ? set_.epilogues.stream_f32 : set_.epilogues.store_f32)(stack_, out);
    }

    // The block's sum over the tree ends up at the bottom of the stack.
    void walk_tree(const std::byte* left, const std::byte* right, int rows) const {
        std::fill_n(stack_, tree_.leaves() == 0 ? kBlockFloats : 0, 0.0f);
        int64_t depth = 0;
        for (int64_t leaf = 0; leaf < tree_.leaves(); ++leaf) {
            float* const sum = stack_ + depth * kBlockFloats;
            const bool more = target_.more && leaf == 0;
            if (in_.fp8)
                multiply_fp8(left, right, leaf, rows, more, sum);
            else
                set_.kernel.multiply_transposed(left + left_offset(leaf),
                                                right + right_offset(leaf), leaf_rows(leaf), rows,
                                                more, sum);
            ++depth;
            for (int merge = tree_.merges[static_cast<size_t>(leaf)]; merge > 0; --merge) {
                --depth;
                set_.epilogues.add(stack_ + depth * kBlockFloats,
                                   stack_ + (depth - 1) * kBlockFloats, rows * kBlock);
            }
        }
    }

    void multiply_fp8(const std::byte* left, const std::byte* right, int64_t leaf, int rows,
                      bool more, float* sum) const {
        alignas(64) float part[kBlockFloats];
        if (leaf_rows(leaf) == 0 && !more) std::fill_n(sum, rows * kBlock, 0.0f);
        for (int64_t token = 0; token < leaf_rows(leaf); token += kFp8Block) {
            set_.kernel.multiply_transposed(
                left + left_offset(leaf) + token * set_.kernel.a_bytes_per_k,
                right + right_offset(leaf) + set_.b_bytes(token),
                std::min(kFp8Block, leaf_rows(leaf) - token), rows, false, part);
            FUCINA_PICK(kFp8Kernels)
                .promote(part, scales(left, left_data(), leaf, token),
                         scales(right, right_data(), leaf, token), rows, more || token > 0, sum);
        }
    }

    const GroupWgrads& in_;
    const GemmSet& set_;
    const Target target_;
    const LeafTree& tree_;
    std::vector<int64_t> padded_;
    float* const stack_;  // partial sums of one block
    std::vector<const void*> dy_rows_, x_rows_;
};

void run_task(const GroupWgrads& in, const GemmSet& set, const WgradTask& task, Target target,
              float* dw) {
    const auto group = static_cast<size_t>(task.group);
    const int64_t first_row = in.first_rows[group];
    const LeafTree& tree = in.trees[group];
    if (tree.leaves() != 1) return GroupWgrad(in, set, first_row, tree, target).run(task, dw);
    const int64_t span = rows_at_once(tree, in.step());
    int64_t row = 0;
    do {
        const int64_t rows = std::min(span, tree.rows() - row);
        const Target part{.more = target.more || row > 0,
                          .finished = target.finished && row + rows == tree.rows()};
        GroupWgrad(in, set, first_row + row, make_leaf_tree({0, rows}), part).run(task, dw);
        row += rows;
    } while (row < tree.rows());
}

void run_wgrad(const GroupWgrads& in, Target target, const Tensor& dw) {
    const int64_t n = in.dy.row_size(), k = in.x.row_size();
    const auto groups = static_cast<int64_t>(in.trees.size());
    FUCINA_CHECK(in.dy.dtype() == in.x.dtype() && dw.dtype() == DType::f32 && dw.contiguous() &&
                     dw.size() == groups * n * k,
                 "wgrad of ", in.dy.describe(), " and ", in.x.describe(), " into ", dw.describe());
    const GemmSet set = gemm_set(in.fp8 ? DType::f8_e4m3 : in.x.dtype());
    const std::vector<WgradTask> tasks =
        wgrad_tasks(in, set, (n + kBlock - 1) / kBlock, (k + kBlock - 1) / kBlock);
    parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
        const WgradTask& task = tasks[static_cast<size_t>(i)];
        run_task(in, set, task, target, dw.data<float>() + task.group * n * k);
    });
}

}  // namespace

void grouped_linear_wgrad(const ops::GroupedWgrad& in, const Tensor& dw) {
    GroupWgrads groups{.dy = in.dy,
                       .x = in.x,
                       .dy_index = in.dy_index.data_or_null<int32_t>(),
                       .x_index = in.x_index.data_or_null<int32_t>(),
                       .fp8 = in.fp8};
    for (int64_t g = 0; g < in.leaves.rows(); ++g) {
        const int64_t* const rows = in.leaves.row<int64_t>(g);
        std::vector<int64_t> offsets(rows, rows + in.leaves.row_size());
        for (int64_t& offset : offsets) offset -= rows[0];
        groups.first_rows.push_back(rows[0]);
        groups.trees.push_back(summation_tree(make_leaf_tree(std::move(offsets))));
    }
    run_wgrad(groups, {.finished = true}, dw);
}

void linear_wgrad(const Tensor& dy, const Tensor& x, const LeafTree& tree, const Tensor& dw,
                  bool fp8) {
    run_wgrad({.dy = dy, .x = x, .first_rows = {0}, .trees = {summation_tree(tree)}, .fp8 = fp8},
              {.finished = true}, dw);
}

ops::WgradScratch linear_wgrad_scratch(const LeafTree& tree, int64_t n, int64_t k, DType type) {
    const GemmSet set = gemm_set(type);
    const LeafTree summed = summation_tree(tree);
    ops::WgradScratch most{.sums = stack_depth(summed) * kBlockFloats * 4};
    const GroupWgrads product{.trees = {summed}, .fp8 = type == DType::f8_e4m3};
    const int64_t scales = product.fp8 ? 4 : 0;  // bytes a row
    for (const WgradTask& task :
         wgrad_tasks(product, set, (n + kBlock - 1) / kBlock, (k + kBlock - 1) / kBlock)) {
        const int64_t rows = rows_at_once(summed, product.step());
        const int64_t blocks = std::min(kLeftBlocks, task.block_end - task.block_begin);
        most.dy = std::max(most.dy, blocks * rows * (set.kernel.a_bytes_per_k + scales));
        most.x = std::max(
            most.x, (task.panel_end - task.panel_begin) * (set.b_bytes(rows) + scales * rows));
    }
    return most;
}

void leaf_wgrad(const Tensor& dy, const Tensor& x, bool more, const Tensor& dw) {
    run_wgrad({.dy = dy, .x = x, .first_rows = {0}, .trees = {make_leaf_tree({0, x.rows()})}},
              {.more = more}, dw);
}

}  // namespace fucina::cpu
