// Tensors for kernels under test: outputs begin as NaN and lie in a larger tensor, so that rows are
// strided and a write outside is found; and comparisons that say where.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/tensor.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {

class Guarded {
  public:
    Guarded(int64_t rows, int64_t columns, DType type)
        : whole_(Tensor::empty({rows + 2, columns + kMargin}, type)) {
        std::memset(whole_.raw(), kFill, static_cast<size_t>(whole_.bytes()));
        view_ = whole_.slice(1, rows + 1).columns(0, columns);
        before_ = whole_.clone();
    }
    const Tensor& view() const { return view_; }
    operator const Tensor&() const { return view_; }

    // Whether everything around the view is as it was.
    bool intact() const {
        const int64_t element = size_of(view_.dtype()), row = whole_.row_size() * element;
        const int64_t inside = view_.row_size() * element;
        for (int64_t i = 0; i < whole_.rows(); ++i) {
            const bool edge = i == 0 || i + 1 == whole_.rows();
            const int64_t from = i * row + (edge ? 0 : inside), count = edge ? row : row - inside;
            if (std::memcmp(whole_.raw() + from, before_.raw() + from,
                            static_cast<size_t>(count)) != 0)
                return false;
        }
        return true;
    }

  private:
    static constexpr int kFill = 0xff;       // NaN in every float format
    static constexpr int64_t kMargin = 128;  // keeps rows as aligned as their width is
    Tensor whole_, view_, before_;
};

// Largest difference of any element, divided by the largest magnitude in `want`; NaN and infinity
// in `got` count as infinite.
inline double relative_error(const Tensor& got, const Tensor& want) {
    double error = 0, largest = 1e-30;
    for (int64_t i = 0; i < want.rows(); ++i)
        for (int64_t j = 0; j < want.row_size(); ++j) {
            const double a = double{get(got, i, j)}, b = double{get(want, i, j)};
            largest = std::max(largest, std::fabs(b));
            error = std::max(error, std::isfinite(a) ? std::fabs(a - b) : INFINITY);
        }
    return error / largest;
}

inline Tensor with_strided_rows(const Tensor& x) {
    Tensor strided =
        Tensor::empty({x.rows(), x.row_size() + 16}, x.dtype()).columns(0, x.row_size());
    for (int64_t i = 0; i < x.rows(); ++i)
        for (int64_t j = 0; j < x.row_size(); ++j) set(strided, i, j, get(x, i, j));
    return strided;
}

}  // namespace fucina::test
