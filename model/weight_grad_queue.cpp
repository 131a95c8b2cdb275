#include "model/weight_grad_queue.h"

namespace fucina {

namespace {

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

void WeightGradQueue::add(Item item) {
    if (!item.parameter->trained) return;
    if (waits)
        waiting_.push_back(std::move(item));
    else
        compute(item);
}

void WeightGradQueue::compute(const Item& item) const {
    static const SumNodes whole(1);
    now(*item.parameter, item.use, item.nodes ? *item.nodes : whole, item.compute);
}

void WeightGradQueue::now(Parameter& parameter, size_t use, const SumNodes& nodes,
                          const Compute& compute) const {
    for (size_t node = 0; node < nodes.size(); ++node) {
        compute(nodes[node],
                parameter.trained ? parameter.as_matrix(parameter.grad(use)) : Tensor());
        if (parameter.trained && done) done(parameter, use, node);
    }
}

void WeightGradQueue::run() {
    for (Item& item : std::exchange(waiting_, {})) compute(std::exchange(item, {}));
}

WeightGradQueue::Item matrix_grad(Parameter* parameter, Tensor dy, Tensor x,
                                  std::shared_ptr<const SumNodes> nodes) {
    return {parameter, std::move(nodes),
            [dy = std::move(dy), x = std::move(x)](const SumNode& node, const Tensor& dw) {
                ops::linear_wgrad(node.rows(dy), node.rows(x), node.tree, dw);
            }};
}

}  // namespace fucina
