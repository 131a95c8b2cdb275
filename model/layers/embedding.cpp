#include "model/layers/embedding.h"

#include <vector>

#include "kernels/embedding.h"

namespace fucina {

Tensor Embedding::forward(const PassContext& context, std::span<const int32_t> ids) const {
    const int64_t width = table->box.extent[1];
    if (!context.shares) {
        Tensor x = context.activations(context.tokens, width);
        ops::embedding(context.exec, tensor_of(context.exec, ids), table->value, x);
        return x;
    }
    // A row goes from the rank that has the token's part of the table to the one that has it as its
    // own; it is chosen, not summed with zeros, which would turn -0 into +0.
    const RowShares& shares = *context.shares;
    const int64_t here = table->box.extent[0], first = table->box.offset[0];
    std::vector<int> sources;
    for (const int32_t id : ids) {
        FUCINA_CHECK(id >= 0 && id < table->shape[0], "token id ", id, " of a vocabulary of ",
                     table->shape[0]);
        sources.push_back(static_cast<int>(id / here));
    }
    std::vector<int32_t> given;
    for (int owner = 0; owner < shares.ranks(); ++owner)
        for (size_t t = 0; t < ids.size(); ++t)
            if (shares.owner(static_cast<int64_t>(t)) == owner && sources[t] == shares.rank())
                given.push_back(static_cast<int32_t>(ids[t] - first));
    const Tensor rows = context.activations(std::ssize(given), width);
    ops::embedding(context.exec, tensor_of(context.exec, given), table->value, rows);
    return context.stream(shares.collect(sources, rows));
}

void Embedding::backward(const PassContext& context, std::span<const int32_t> ids,
                         const Tensor& dx) const {
    std::vector<int32_t> here(ids.begin(), ids.end());
    const auto first = static_cast<int32_t>(table->box.offset[0]);
    for (int32_t& id : here) id -= first;
    context.weight_grads->add({table, context.nodes,
                               [exec = context.exec, own = tensor_of(context.exec, here),
                                dx = context.whole(dx)](const SumNode& node, const Tensor& dw) {
                                   ops::embedding_backward(exec, node.rows(own), node.rows(dx),
                                                           node.tree, dw);
                               },
                               use});
}

}  // namespace fucina
