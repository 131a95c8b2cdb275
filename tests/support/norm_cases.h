// Cases of norm.h, the same for every back end.
#pragma once
#include <functional>

#include "kernels/norm.h"
#include "tests/support/kernel_case.h"

namespace fucina::test {

// A back end's kernels, with the contracts of ops::.
struct NormKernels {
    std::function<void(const Tensor& x, const Tensor& w, float eps, const Tensor& y,
                       const Tensor& rstd)>
        rmsnorm;
    std::function<void(const Tensor& x, const Tensor& residual, const Tensor& sum, const Tensor& w,
                       float eps, const Tensor& y, const Tensor& rstd)>
        add_rmsnorm;
    std::function<void(const ops::RmsNormBackward& io)> rmsnorm_backward;
};

void add_norm_cases(Cases& cases, const NormKernels& fast);

}  // namespace fucina::test
