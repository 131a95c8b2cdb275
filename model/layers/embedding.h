// Embedding: one row of the table per token id.
#pragma once
#include <vector>

#include "kernels/embedding.h"
#include "model/parameter_set.h"
#include "model/pass_context.h"

namespace fucina {

// The table is shared with a tied head and with MTP; each use of it has a gradient of its own.
struct Embedding {
    Parameter* table = nullptr;  // [V, D]
    size_t use = 0;

    Tensor forward(const PassContext& context, const int32_t* ids) const {
        Tensor x = context.activations(context.tokens, table->value.dim(1));
        ops::embedding(ids, table->value, x);
        return x;
    }
    void backward(const PassContext& context, const int32_t* ids, const Tensor& dx) const {
        const std::vector<int32_t> own(ids, ids + dx.rows());
        context.weight_grads->add({table, context.nodes,
                                   [own, dx](const SumNode& node, const Tensor& dw) {
                                       ops::embedding_backward(own.data() + node.begin,
                                                               node.rows(dx), node.tree, dw);
                                   },
                                   use});
    }
};

}  // namespace fucina
