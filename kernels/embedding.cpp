#include "kernels/embedding.h"

#include "kernels/reference/reference.h"

namespace fucina::ops {

void embedding(const int32_t* ids, const Tensor& table, const Tensor& out) {
    reference::embedding(ids, table, out);
}

void embedding_backward(const int32_t* ids, const Tensor& d_out, const LeafTree& tree,
                        const Tensor& d_table) {
    reference::embedding_backward(ids, d_out, tree, d_table);
}

}  // namespace fucina::ops
