// The embedding on the CPU. Backward works per token id: its rows are found by a counting sort.
#include <algorithm>
#include <vector>

#include "kernels/cpu/row_ops.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {
namespace {

// Tokens of each id: tokens[offsets[id] .. offsets[id + 1]) in ascending order.
struct TokensById {
    std::vector<int32_t> offsets, tokens;
};

TokensById sort_by_id(const int32_t* ids, int64_t count, int64_t vocabulary) {
    TokensById sorted;
    sorted.offsets.assign(static_cast<size_t>(vocabulary) + 1, 0);
    sorted.tokens.resize(static_cast<size_t>(count));
    const auto here = [&](int64_t t) { return ids[t] >= 0 && ids[t] < vocabulary; };
    for (int64_t t = 0; t < count; ++t)
        if (here(t)) ++sorted.offsets[static_cast<size_t>(ids[t]) + 1];
    for (size_t id = 1; id < sorted.offsets.size(); ++id)
        sorted.offsets[id] += sorted.offsets[id - 1];
    std::vector<int32_t> next = sorted.offsets;
    for (int64_t t = 0; t < count; ++t)
        if (here(t))
            sorted.tokens[static_cast<size_t>(next[static_cast<size_t>(ids[t])]++)] =
                static_cast<int32_t>(t);
    return sorted;
}

// Sum of the rows `tokens` of d_out along the tree. A leaf of zeros is remembered as such, and
// adding it is done once, not per leaf: x + 0 + 0 is x + 0.
class RowTreeSum {
  public:
    RowTreeSum(const Tensor& d_out, const LeafTree& tree) : d_out_(d_out), tree_(tree) {}

    void operator()(const int32_t* first, const int32_t* last, float* out) {
        const int64_t width = d_out_.row_size();
        size_t depth = 0;
        for (size_t leaf = 0; leaf < tree_.merges.size(); ++leaf) {
            if (depth == partial_.size()) partial_.emplace_back(static_cast<size_t>(width));
            if (depth == zero_.size()) zero_.push_back(true);
            zero_[depth] = true;
            for (; first < last && *first < tree_.offsets[leaf + 1]; ++first) add(depth, *first);
            ++depth;
            for (int merge = 0; merge < tree_.merges[leaf]; ++merge) merge_into(--depth - 1);
        }
        if (depth == 0 || zero_[0])
            std::fill(out, out + width, 0.0f);
        else
            std::copy(partial_[0].begin(), partial_[0].end(), out);
    }

  private:
    void add(size_t at, int64_t token) {
        if (zero_[at]) std::fill(partial_[at].begin(), partial_[at].end(), 0.0f);
        zero_[at] = false;
        kernels_.add(cells(d_out_, token), partial_[at].data(), d_out_.row_size());
    }
    // partial[at] += partial[at + 1]
    void merge_into(size_t at) {
        std::vector<float>&left = partial_[at], &right = partial_[at + 1];
        if (zero_[at] && zero_[at + 1]) return;
        if (zero_[at]) std::swap(left, right);
        const bool adds_zero = zero_[at] || zero_[at + 1];
        for (size_t j = 0; j < left.size(); ++j) left[j] += adds_zero ? 0.0f : right[j];
        zero_[at] = false;
    }

    const Tensor& d_out_;
    const LeafTree& tree_;
    const RowKernels& kernels_ = FUCINA_PICK(kRowKernels);
    std::vector<std::vector<float>> partial_;
    std::vector<bool> zero_;
};

}  // namespace

void embedding(const Tensor& ids, const Tensor& table, const Tensor& out) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    parallel_for(out.rows(), out.row_size(), [&](int64_t t) {
        const int32_t id = ids.data<int32_t>()[t];
        FUCINA_CHECK(id >= 0 && id < table.rows(), "token id ", id, " of a vocabulary of ",
                     table.rows());
        kernels.cast(cells(table, id), cells(out, t), out.row_size());
    });
}

void embedding_backward(const Tensor& ids, const Tensor& d_out, const LeafTree& tree,
                        const Tensor& d_table) {
    constexpr int64_t kIds = 64;  // ids of one unit of work, which share scratch
    const TokensById sorted = sort_by_id(ids.data<int32_t>(), d_out.rows(), d_table.rows());
    parallel_ranges(d_table.rows(), kIds, kIds * d_table.row_size(),
                    [&](int64_t begin, int64_t end) {
                        RowTreeSum sum(d_out, tree);
                        for (int64_t id = begin; id < end; ++id) {
                            const int32_t first = sorted.offsets[static_cast<size_t>(id)];
                            const int32_t last = sorted.offsets[static_cast<size_t>(id) + 1];
                            float* out = d_table.row<float>(id);
                            if (first == last)
                                std::fill(out, out + d_table.row_size(), 0.0f);
                            else
                                sum(sorted.tokens.data() + first, sorted.tokens.data() + last, out);
                        }
                    });
}

}  // namespace fucina::cpu
