#include "model/weight_grad_queue.h"

#include <algorithm>

#include "kernels/optimizer.h"

namespace fucina {

namespace {

const SumNodes kWhole(1);

// Of grains [begin, end): the tree over each grain's chunks, and over grains.
SumNode node_of(std::span<const int64_t> grain_offsets, size_t begin, size_t end, int64_t chunks) {
    SumNode node{grain_offsets[begin], grain_offsets[end], {}};
    std::vector<int> merges;
    append_merges(static_cast<int64_t>(end - begin), merges);
    for (size_t grain = begin; grain < end; ++grain) {
        const int64_t first = grain_offsets[grain], tokens = grain_offsets[grain + 1] - first;
        for (int64_t chunk = 1; chunk <= chunks; ++chunk)
            node.tree.offsets.push_back(first + tokens * chunk / chunks - node.begin);
        append_merges(chunks, node.tree.merges);
        node.tree.merges.back() += merges[grain - begin];
    }
    return node;
}

}  // namespace

std::shared_ptr<const SumNodes> make_nodes(std::span<const int64_t> grain_offsets, bool apart,
                                           int64_t chunks) {
    auto nodes = std::make_shared<SumNodes>();
    const size_t grains = grain_offsets.size() - 1;
    if (!apart) nodes->push_back(node_of(grain_offsets, 0, grains, chunks));
    for (size_t grain = 0; apart && grain < grains; ++grain)
        nodes->push_back(node_of(grain_offsets, grain, grain + 1, chunks));
    return nodes;
}

std::shared_ptr<const SumNodes> make_own_nodes(const RowShares& shares,
                                               std::span<const int64_t> grain_offsets, bool apart,
                                               int64_t chunks) {
    auto nodes = std::make_shared<SumNodes>();
    const int64_t own = std::max<int64_t>(chunks / shares.ranks(), 1);
    const int64_t all = own * shares.ranks(), first = own * shares.rank();
    const std::span<const int64_t> offsets = shares.own_offsets();
    append_merges(std::ssize(grain_offsets) - 1, nodes->merges);
    if (apart) std::ranges::fill(nodes->merges, 0);
    for (size_t grain = 0; grain + 1 < grain_offsets.size(); ++grain) {
        const int64_t tokens = grain_offsets[grain + 1] - grain_offsets[grain];
        std::vector<int64_t> ends;
        for (int64_t chunk = first; chunk <= first + own; ++chunk)
            ends.push_back(tokens * chunk / all - tokens * first / all);
        nodes->push_back({offsets[grain], offsets[grain + 1], make_leaf_tree(std::move(ends))});
    }
    return nodes;
}

void WeightGradQueue::add(Item item) {
    if (!item.parameter->trained) return;
    if (item.rows.partial)
        compute_partial(item);
    else if (waits)
        waiting_.push_back(std::move(item));
    else
        compute(item);
}

void WeightGradQueue::compute_partial(const Item& item) {
    Parameter& parameter = *item.parameter;
    const SumNodes& nodes = item.nodes ? *item.nodes : kWhole;
    std::vector<Tensor>& grads = partial_[{&parameter, item.use}];
    grads.resize(nodes.size());
    for (size_t node = 0; node < nodes.size(); ++node) {
        if (!grads[node].defined()) {
            parameter.grads[item.use] = {};
            grads[node] = std::exchange(parameter.grad(item.use), {});
        }
        const Tensor dw = parameter.as_matrix(grads[node]).slice(item.rows.begin, item.rows.end);
        if (item.rows.begin < item.rows.end) item.compute(nodes[node], dw);
    }
    if (!item.rows.last) return;
    for (size_t node = 0; node < nodes.size(); ++node) {
        parameter.grads[item.use] = std::move(grads[node]);
        if (done) done(parameter, item.use, node);
    }
    partial_.erase({&parameter, item.use});
}

void WeightGradQueue::compute(const Item& item) const {
    now(*item.parameter, item.use, item.nodes ? *item.nodes : kWhole, item.compute);
}

void WeightGradQueue::now(Parameter& parameter, size_t use, const SumNodes& nodes,
                          const Compute& compute) const {
    if (!nodes.merges.empty() && parameter.trained)
        return sum_pieces(parameter, use, nodes, compute);
    for (size_t node = 0; node < nodes.size(); ++node) {
        compute(nodes[node],
                parameter.trained ? parameter.as_matrix(parameter.grad(use)) : Tensor());
        if (parameter.trained && done) done(parameter, use, node);
    }
}

// Grain by grain over the ranks, then over the grains.
void WeightGradQueue::sum_pieces(Parameter& parameter, size_t use, const SumNodes& nodes,
                                 const Compute& compute) const {
    const bool apart = std::ranges::count(nodes.merges, 0) == std::ssize(nodes);
    std::vector<Tensor> sums;
    for (size_t node = 0; node < nodes.size(); ++node) {
        parameter.grads[use] = {};
        sums.push_back(parameter.grad(use));
        compute(nodes[node], parameter.as_matrix(sums.back()));
        sum_ranks(sums.back());
        for (int merge = nodes.merges[node]; merge > 0; --merge) {
            ops::add_in_place(parameter.exec, sums[sums.size() - 2], sums.back());
            sums.pop_back();
        }
        parameter.grads[use] = sums.back();
        if (!apart) continue;
        if (done) done(parameter, use, node);
        sums.clear();
    }
    if (!apart && done) done(parameter, use, 0);
}

void WeightGradQueue::run() {
    for (Item& item : std::exchange(waiting_, {})) compute(std::exchange(item, {}));
}

WeightGradQueue::Item matrix_grad(Parameter* parameter, Tensor dy, Tensor x,
                                  std::shared_ptr<const SumNodes> nodes) {
    const bool fp8 = parameter->packed->forward.fp8();
    return {parameter, std::move(nodes),
            [exec = parameter->exec, fp8, dy = std::move(dy), x = std::move(x)](const SumNode& node,
                                                                                const Tensor& dw) {
                ops::linear_wgrad(exec, node.rows(dy), node.rows(x), node.tree, dw, fp8);
            }};
}

}  // namespace fucina
