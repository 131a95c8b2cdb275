// Reference RMSNorm. Row sums are fp64: the oracle has no rounding of its own there.
#include "kernels/norm.h"

#include "tests/reference/reference.h"
#include "tests/reference/rows.h"

namespace fucina::reference {
namespace {

void norm_row(const std::vector<float>& x, const Tensor& w, float eps, const Tensor& y, int64_t row,
              const Tensor& rstd) {
    double squares = 0;
    for (const float value : x) squares += double{value} * value;
    const auto scale = static_cast<float>(
        1.0 / std::sqrt(squares / static_cast<double>(x.size()) + static_cast<double>(eps)));
    std::vector<float> out(x.size());
    for (size_t j = 0; j < x.size(); ++j)
        out[j] = w.data<float>()[j] * round_to(y.dtype(), x[j] * scale);
    store_row(y, row, out);
    if (rstd.defined()) rstd.data<float>()[row] = scale;
}

}  // namespace

void rmsnorm(const Tensor& x, const Tensor& w, float eps, const Tensor& y, const Tensor& rstd) {
    parallel_for(x.rows(), x.row_size(),
                 [&](int64_t t) { norm_row(load_row(x, t), w, eps, y, t, rstd); });
}

void add_rmsnorm(const Tensor& x, const Tensor& residual, const Tensor& sum, const Tensor& w,
                 float eps, const Tensor& y, const Tensor& rstd) {
    parallel_for(x.rows(), x.row_size(), [&](int64_t t) {
        std::vector<float> total = load_row(x, t);
        const std::vector<float> other = load_row(residual, t);
        for (size_t j = 0; j < total.size(); ++j)
            total[j] = round_to(sum.dtype(), total[j] + other[j]);
        store_row(sum, t, total);
        norm_row(total, w, eps, y, t, rstd);
    });
}

void rmsnorm_backward(const ops::RmsNormBackward& io) {
    const int64_t rows = io.x.rows(), width = io.x.row_size();
    const float* w = io.w.data<float>();
    // The terms of dw, before dx is written: dx may alias residual_grad but never dy or x.
    std::vector<float> terms(static_cast<size_t>(rows * width));
    parallel_for(rows, width, [&](int64_t t) {
        const std::vector<float> x = load_row(io.x, t), dy = load_row(io.dy, t);
        const float rstd = io.rstd.data<float>()[t];
        double dot = 0;
        for (size_t j = 0; j < x.size(); ++j) {
            dot += double{dy[j]} * w[j] * x[j] * rstd;
            terms[static_cast<size_t>(t * width) + j] = dy[j] * round_to(io.x.dtype(), x[j] * rstd);
        }
        const auto mean = static_cast<float>(dot / static_cast<double>(width));
        std::vector<float> dx(x.size(), 0.0f);
        if (io.residual_grad.defined()) dx = load_row(io.residual_grad, t);
        for (size_t j = 0; j < x.size(); ++j) dx[j] += rstd * (dy[j] * w[j] - x[j] * rstd * mean);
        store_row(io.dx, t, dx);
    });
    if (!io.dw.defined()) return;
    sum_along_tree(io.tree, width, io.dw.data<float>(),
                   [&](int64_t begin, int64_t end, float* sum) {
                       for (int64_t t = begin; t < end; ++t)
                           for (int64_t j = 0; j < width; ++j)
                               sum[j] += terms[static_cast<size_t>(t * width + j)];
                   });
}

}  // namespace fucina::reference
