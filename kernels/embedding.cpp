#include "kernels/embedding.h"

#include "kernels/cpu/row_ops.h"
#include "kernels/cuda/embedding.h"

namespace fucina::ops {

void embedding(const Exec& exec, const Tensor& ids, const Tensor& table, const Tensor& out) {
    FUCINA_CHECK(table.dtype() == DType::f32 && table.row_size() == out.row_size() &&
                     ids.size() == out.rows() &&
                     (out.dtype() == DType::f32 || out.dtype() == DType::bf16),
                 "embedding ", table.describe(), " of ", ids.describe(), " to ", out.describe());
    FUCINA_RUN(exec, embedding, ids, table, out);
}

void embedding_backward(const Exec& exec, const Tensor& ids, const Tensor& d_out,
                        const LeafTree& tree, const Tensor& d_table) {
    FUCINA_CHECK(tree.rows() == d_out.rows() && ids.size() == d_out.rows() &&
                     d_table.row_size() == d_out.row_size() && d_table.dtype() == DType::f32 &&
                     d_out.rows() < INT32_MAX,
                 "gradient ", d_out.describe(), " of an embedding ", d_table.describe(),
                 ", tree of ", tree.rows(), " rows");
    FUCINA_RUN(exec, embedding_backward, ids, d_out, tree, d_table);
}

}  // namespace fucina::ops
