#include "model/weight_grad_queue.h"

namespace fucina {

std::shared_ptr<const SumNodes> make_nodes(std::span<const int64_t> grain_offsets, bool apart) {
    auto nodes = std::make_shared<SumNodes>();
    if (!apart) {
        nodes->push_back({0, grain_offsets.back(),
                          make_leaf_tree({grain_offsets.begin(), grain_offsets.end()})});
        return nodes;
    }
    for (size_t g = 0; g + 1 < grain_offsets.size(); ++g)
        nodes->push_back({grain_offsets[g], grain_offsets[g + 1],
                          make_leaf_tree({0, grain_offsets[g + 1] - grain_offsets[g]})});
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
