#include "kernels/cpu/row_ops.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {

void rope(const Tensor& x, int64_t heads, const int32_t* positions, const RopeTable& table,
          bool inverse) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    parallel_for(x.rows(), 2 * heads * table.cos.row_size(), [&](int64_t t) {
        FUCINA_CHECK(positions[t] >= 0 && positions[t] < table.cos.rows(), "position ",
                     positions[t], " of a table of ", table.cos.rows());
        kernels.rope({.x = cells(x, t),
                      .heads = heads,
                      .head_dim = x.row_size() / heads,
                      .half = table.cos.row_size(),
                      .cos = table.cos.row<float>(positions[t]),
                      .sin = table.sin.row<float>(positions[t]),
                      .interleaved = table.layout == RopeLayout::interleaved,
                      .inverse = inverse});
    });
}

}  // namespace fucina::cpu
