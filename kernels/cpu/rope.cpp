#include "kernels/cpu/row_ops.h"
#include "kernels/parallel_for.h"

namespace fucina::cpu {

void rope(const Tensor& x, int64_t heads, const Tensor& positions, const RopeTable& table,
          bool inverse) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    parallel_for(x.rows(), 2 * heads * table.cos.row_size(), [&](int64_t t) {
        const int32_t position = positions.data<int32_t>()[t];
        FUCINA_CHECK(position >= 0 && position < table.cos.rows(), "position ", position,
                     " of a table of ", table.cos.rows());
        kernels.rope({.x = cells(x, t),
                      .heads = heads,
                      .head_dim = x.row_size() / heads,
                      .half = table.cos.row_size(),
                      .cos = table.cos.row<float>(position),
                      .sin = table.sin.row<float>(position),
                      .interleaved = table.layout == RopeLayout::interleaved,
                      .inverse = inverse});
    });
}

}  // namespace fucina::cpu
