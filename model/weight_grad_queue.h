// WeightGradQueue: weight gradients as work that owns its operands, so that when they are computed
// is decided in one place: at once, later, or never for a frozen parameter.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/gemm.h"
#include "kernels/leaf_tree.h"
#include "parallel/parameter.h"
#include "parallel/row_shares.h"

namespace fucina {

// Rows of a pass whose gradient is one node of a parameter's sum.
struct SumNode {
    int64_t begin = 0, end = 0;
    LeafTree tree;  // of these rows, its offsets from 0

    Tensor rows(const Tensor& x) const { return x.defined() ? x.slice(begin, end) : x; }
};
struct SumNodes : std::vector<SumNode> {
    using std::vector<SumNode>::vector;
    // Nodes of what a rank has of each grain, which are sums only with those of other ranks: after
    // node i so many sums become one, or none where grains are apart. Empty: of whole grains.
    std::vector<int> merges;
};

// One node of all grains; or each grain a node of its own, where their gradients are parts of
// different sums. A grain's tokens are as many leaves as chunks, as equal as can be.
std::shared_ptr<const SumNodes> make_nodes(std::span<const int64_t> grain_offsets, bool apart,
                                           int64_t chunks);
// Of a tensor-parallel rank's own rows; its piece of a grain is its share of the chunks.
std::shared_ptr<const SumNodes> make_own_nodes(const RowShares& shares,
                                               std::span<const int64_t> grain_offsets, bool apart,
                                               int64_t chunks);

class WeightGradQueue {
  public:
    // Overwrites dw, fp32 of the parameter's shape as a matrix, with the gradient of the node's
    // rows.
    using Compute = std::function<void(const SumNode& node, const Tensor& dw)>;
    // Of a gradient's first dimension: what an item computes.
    struct Rows {
        int64_t begin = 0, end = 0;
        bool last = true;      // of the items that make up the gradient
        bool partial = false;  // there are such others
    };
    struct Item {
        Parameter* parameter = nullptr;
        std::shared_ptr<const SumNodes> nodes = {};  // null: one, whose rows `compute` knows
        Compute compute;                             // owns what it reads
        size_t use = 0;                              // index into Parameter::grads
        Rows rows = {};                              // looked at where partial
    };

    // One of partial rows is computed at once, and its gradient is whole after the last, whose
    // nodes are as many.
    void add(Item item);
    // For gradients that come out of work which cannot wait, by compute(node, dw); the work is done
    // for frozen parameters too, with dw undefined.
    void now(Parameter& parameter, size_t use, const SumNodes& nodes, const Compute& compute) const;
    // What waits, in the order in which it was added.
    void run();

    bool waits = false;  // add() only remembers
    GradDone done;       // may take the gradient's tensor away
    // Adds up, along their tree, what tensor-parallel ranks have of a gradient; collective.
    std::function<void(const Tensor& grad)> sum_ranks;

  private:
    void compute(const Item& item) const;
    void compute_partial(const Item& item);
    void sum_pieces(Parameter& parameter, size_t use, const SumNodes& nodes,
                    const Compute& compute) const;

    std::vector<Item> waiting_;
    // [nodes] Of gradients of which rows are missing.
    std::map<std::pair<Parameter*, size_t>, std::vector<Tensor>> partial_;
};

// dW = dyᵀ x, rows of dy [T, N] and x [T, K].
WeightGradQueue::Item matrix_grad(Parameter* parameter, Tensor dy, Tensor x,
                                  std::shared_ptr<const SumNodes> nodes);

}  // namespace fucina
