// RMSNorm on the CPU: rows in parallel; the weight's gradient by blocks of columns, each along the
// whole tree.
#include "kernels/cpu/row_ops.h"
#include "kernels/parallel_for.h"
#include "kernels/tree_sum.h"

namespace fucina::cpu {

void rmsnorm(const ops::RmsNorm& in) {
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    parallel_for(in.x.rows(), in.x.row_size(), [&](int64_t t) {
        kernels.norm({.x = cells(in.x, t),
                      .residual = cells(in.residual, t),
                      .sum = cells(in.sum, t),
                      .y = cells(in.y, t),
                      .w = in.w.data<float>(),
                      .rstd = in.rstd.defined() ? in.rstd.data<float>() + t : nullptr,
                      .width = in.x.row_size(),
                      .eps = in.eps});
    });
}

void rmsnorm_backward(const ops::RmsNormBackward& io) {
    constexpr int64_t kColumns = 64;  // their sums stay in registers
    const RowKernels& kernels = FUCINA_PICK(kRowKernels);
    const int64_t width = io.x.row_size();
    const int64_t columns = io.dw.defined() ? width : 0;
    parallel_ranges(columns, kColumns, kColumns * io.x.rows(), [&](int64_t begin, int64_t end) {
        sum_along_tree(io.tree, end - begin, io.dw.data<float>() + begin,
                       [&](int64_t first, int64_t last, float* sum) {
                           kernels.norm_weight({.dy = cells(io.dy, 0, begin),
                                                .x = cells(io.x, 0, begin),
                                                .dy_stride = io.dy.row_stride(),
                                                .x_stride = io.x.row_stride(),
                                                .rstd = io.rstd.data<float>(),
                                                .begin = first,
                                                .end = last,
                                                .width = end - begin,
                                                .sum = sum});
                       });
    });
    parallel_for(io.x.rows(), width, [&](int64_t t) {
        kernels.norm_backward({.dy = cells(io.dy, t),
                               .x = cells(io.x, t),
                               .residual_grad = cells(io.residual_grad, t),
                               .dx = cells(io.dx, t),
                               .w = io.w.data<float>(),
                               .rstd = io.rstd.data<float>()[t],
                               .width = width});
    });
}

}  // namespace fucina::cpu
