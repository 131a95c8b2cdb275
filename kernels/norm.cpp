#include "kernels/norm.h"

#include "kernels/reference/reference.h"

namespace fucina::ops {

void rmsnorm(const Tensor& x, const Tensor& w, float eps, const Tensor& y, const Tensor& rstd) {
    reference::rmsnorm(x, w, eps, y, rstd);
}

void add_rmsnorm(const Tensor& x, const Tensor& residual, const Tensor& sum, const Tensor& w,
                 float eps, const Tensor& y, const Tensor& rstd) {
    reference::add_rmsnorm(x, residual, sum, w, eps, y, rstd);
}

void rmsnorm_backward(const RmsNormBackward& io) {
    reference::rmsnorm_backward(io);
}

}  // namespace fucina::ops
