// dW = dyᵀ x along a LeafTree. A task owns a rectangle of dW: x's columns of it are packed once,
// dy's 32 at a time; each 32 x 32 block then walks all leaves with its partial sums on an L1 stack
// and is written once.
#include <algorithm>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/gemm_select.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

constexpr int64_t kRightBytes = 8 << 20;  // of packed x in a task
constexpr int64_t kBlockFloats = kBlock * kBlock;

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

std::vector<WgradTask> wgrad_tasks(const ops::GroupedWgrad& in, const GemmSet& set, int64_t blocks,
                                   int64_t panels) {
    std::vector<WgradTask> tasks;
    int64_t most_rows = 1;
    for (size_t g = 0; g < in.trees.size(); ++g) {
        tasks.push_back({static_cast<int64_t>(g), 0, blocks, 0, panels});
        most_rows = std::max(most_rows, padded_offsets(in.trees[g]).back());
    }
    const int64_t width = std::max<int64_t>(1, kRightBytes / set.b_bytes(most_rows));
    cut(tasks, &WgradTask::panel_begin, &WgradTask::panel_end, width);
    // Packing is repeated in each piece, hence no smaller than 4 blocks.
    const auto pieces = [&] {
        const auto wanted =
            static_cast<int64_t>(runtime().threads == 1 ? 1 : 4 * runtime().threads);
        const auto count = std::max<int64_t>(1, static_cast<int64_t>(tasks.size()));
        return (wanted + count - 1) / count;
    };
    cut(tasks, &WgradTask::block_begin, &WgradTask::block_end,
        std::max<int64_t>(4, (blocks + pieces() - 1) / pieces()));
    cut(tasks, &WgradTask::panel_begin, &WgradTask::panel_end,
        std::max<int64_t>(4, (std::min(panels, width) + pieces() - 1) / pieces()));
    return tasks;
}

class GroupWgrad {
  public:
    GroupWgrad(const ops::GroupedWgrad& in, const GemmSet& set, int64_t group, bool more)
        : in_(in),
          set_(set),
          more_(more),
          tree_(in.trees[static_cast<size_t>(group)]),
          padded_(padded_offsets(tree_)),
          dy_rows_(rows_of(in.dy, in.dy_index, group)),
          x_rows_(rows_of(in.x, in.x_index, group)) {}

    void run(const WgradTask& task, float* dw) const {
        const int64_t n = in_.dy.row_size(), k = in_.x.row_size();
        const int64_t panel_bytes = kBlock * set_.element * padded_.back();
        const std::byte* right = pack_right(task, panel_bytes);
        std::byte* left = scratch(ScratchSlot::left, set_.kernel.a_bytes_per_k * padded_.back());
        auto* stack = reinterpret_cast<float*>(
            scratch(ScratchSlot::rows, stack_depth(tree_) * kBlockFloats * 4));
        for (int64_t block = task.block_begin; block < task.block_end; ++block) {
            const int64_t row = block * kBlock;
            const int rows = static_cast<int>(std::min(kBlock, n - row));
            for (int64_t leaf = 0; leaf < tree_.leaves(); ++leaf)
                set_.kernel.pack_a_transposed(leaf_columns(dy_rows_, leaf, row, rows),
                                              left + left_offset(leaf));
            for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
                const int64_t column = panel * kBlock;
                const auto columns = static_cast<int>(std::min(kBlock, k - column));
                const StoreBlock out{dw + row * k + column, k, rows, columns};
                if (more_) load_block(out, stack);
                walk_tree(left, right + (panel - task.panel_begin) * panel_bytes, rows, stack);
                set_.epilogues.store_f32(stack, out);
            }
        }
    }

  private:
    std::vector<const void*> rows_of(const Tensor& x, const int32_t* index, int64_t group) const {
        const int64_t begin = in_.group_offsets[static_cast<size_t>(group)];
        std::vector<const void*> rows;
        for (int64_t i = 0; i < tree_.rows(); ++i) {
            const int64_t row = index == nullptr ? begin + i : index[begin + i];
            rows.push_back(x.raw() + row * x.row_stride() * set_.element);
        }
        return rows;
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
    TokenColumns leaf_columns(const std::vector<const void*>& rows, int64_t leaf, int64_t column,
                              int columns) const {
        return {rows.data() + tree_.offsets[static_cast<size_t>(leaf)], leaf_rows(leaf), column,
                columns};
    }

    const std::byte* pack_right(const WgradTask& task, int64_t panel_bytes) const {
        std::byte* right =
            scratch(ScratchSlot::right, (task.panel_end - task.panel_begin) * panel_bytes);
        for (int64_t leaf = 0; leaf < tree_.leaves(); ++leaf)
            for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
                const int64_t column = panel * kBlock;
                const auto columns = static_cast<int>(std::min(kBlock, in_.x.row_size() - column));
                set_.tools.pack_b_tokens(
                    leaf_columns(x_rows_, leaf, column, columns),
                    right + (panel - task.panel_begin) * panel_bytes + right_offset(leaf));
            }
        return right;
    }

    static void load_block(const StoreBlock& from, float* c) {
        const auto* in = static_cast<const float*>(from.out);
        for (int row = 0; row < from.rows; ++row)
            std::copy_n(in + row * from.stride, from.columns, c + row * kBlock);
    }

    // The block's sum over the tree ends up at stack[0].
    void walk_tree(const std::byte* left, const std::byte* right, int rows, float* stack) const {
        std::fill_n(stack, tree_.leaves() == 0 ? kBlockFloats : 0, 0.0f);
        int64_t depth = 0;
        for (int64_t leaf = 0; leaf < tree_.leaves(); ++leaf) {
            set_.kernel.multiply_transposed(left + left_offset(leaf), right + right_offset(leaf),
                                            leaf_rows(leaf), rows, more_ && leaf == 0,
                                            stack + depth * kBlockFloats);
            ++depth;
            for (int merge = tree_.merges[static_cast<size_t>(leaf)]; merge > 0; --merge) {
                --depth;
                set_.epilogues.add(stack + depth * kBlockFloats, stack + (depth - 1) * kBlockFloats,
                                   rows * kBlock);
            }
        }
    }

    const ops::GroupedWgrad& in_;
    const GemmSet& set_;
    const bool more_;  // the first leaf's sum starts from dw
    const LeafTree& tree_;
    std::vector<int64_t> padded_;
    std::vector<const void*> dy_rows_, x_rows_;
};

void run_wgrad(const ops::GroupedWgrad& in, bool more, const Tensor& dw) {
    const int64_t n = in.dy.row_size(), k = in.x.row_size();
    const auto groups = static_cast<int64_t>(in.trees.size());
    FUCINA_CHECK(in.dy.dtype() == in.x.dtype() && dw.dtype() == DType::f32 && dw.contiguous() &&
                     dw.size() == groups * n * k,
                 "wgrad of ", in.dy.describe(), " and ", in.x.describe(), " into ", dw.describe());
    for (int64_t g = 0; g < groups; ++g) {
        const auto i = static_cast<size_t>(g);
        const int64_t rows = in.group_offsets[i + 1] - in.group_offsets[i];
        FUCINA_CHECK(in.trees[i].rows() == rows, "group ", g, " has ", rows, " rows and a tree of ",
                     in.trees[i].rows());
    }
    const GemmSet set = gemm_set(in.x.dtype());
    const std::vector<WgradTask> tasks =
        wgrad_tasks(in, set, (n + kBlock - 1) / kBlock, (k + kBlock - 1) / kBlock);
    parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
        const WgradTask& task = tasks[static_cast<size_t>(i)];
        GroupWgrad(in, set, task.group, more).run(task, dw.data<float>() + task.group * n * k);
    });
}

}  // namespace

void grouped_linear_wgrad(const ops::GroupedWgrad& in, const Tensor& dw) {
    run_wgrad(in, false, dw);
}

void leaf_wgrad(const Tensor& dy, const Tensor& x, bool more, const Tensor& dw) {
    const LeafTree leaf = make_leaf_tree({0, x.rows()});
    const int64_t offsets[] = {0, x.rows()};
    run_wgrad({.dy = dy, .x = x, .trees = {&leaf, 1}, .group_offsets = offsets}, more, dw);
}

}  // namespace fucina::cpu
