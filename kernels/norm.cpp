#include "kernels/norm.h"

#include "kernels/cpu/row_ops.h"
#include "kernels/cuda/norm.h"

namespace fucina::ops {
namespace {

void check_same(const Tensor& a, const Tensor& b, const char* what) {
    FUCINA_CHECK(a.rows() == b.rows() && a.row_size() == b.row_size() && a.dtype() == b.dtype(),
                 what, ": ", a.describe(), " and ", b.describe());
}

void check_weight(const Tensor& w, const Tensor& x) {
    FUCINA_CHECK(w.dtype() == DType::f32 && w.size() == x.row_size(), "norm weight ", w.describe(),
                 " for ", x.describe());
}

}  // namespace

void rmsnorm(const Exec& exec, const Tensor& x, const Tensor& w, float eps, const Tensor& y,
             const Tensor& rstd) {
    check_same(x, y, "rmsnorm");
    check_weight(w, x);
    const RmsNorm io{.x = x, .w = w, .y = y, .rstd = rstd, .eps = eps};
    FUCINA_RUN(exec, rmsnorm, io);
}

void add_rmsnorm(const Exec& exec, const Tensor& x, const Tensor& residual, const Tensor& sum,
                 const Tensor& w, float eps, const Tensor& y, const Tensor& rstd) {
    check_same(x, residual, "add_rmsnorm");
    check_same(x, sum, "add_rmsnorm");
    check_same(x, y, "add_rmsnorm");
    check_weight(w, x);
    const RmsNorm io{
        .x = x, .residual = residual, .sum = sum, .w = w, .y = y, .rstd = rstd, .eps = eps};
    FUCINA_RUN(exec, rmsnorm, io);
}

void rmsnorm_backward(const Exec& exec, const RmsNormBackward& io) {
    check_same(io.x, io.dy, "rmsnorm_backward");
    check_same(io.x, io.dx, "rmsnorm_backward");
    if (io.residual_grad.defined()) check_same(io.x, io.residual_grad, "rmsnorm_backward");
    check_weight(io.w, io.x);
    if (io.dw.defined()) check_weight(io.dw, io.x);
    FUCINA_CHECK(io.tree.rows() == io.x.rows(), "tree of ", io.tree.rows(), " rows for ",
                 io.x.describe());
    FUCINA_RUN(exec, rmsnorm_backward, io);
}

}  // namespace fucina::ops
