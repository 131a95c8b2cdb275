#include "kernels/optimizer.h"

#include "kernels/cpu/row_ops.h"
#include "kernels/cuda/optimizer.h"
#include "kernels/cuda/rows.h"

namespace fucina::ops {
namespace {

bool float_cells(const Tensor& x) {
    return x.dtype() == DType::f32 || x.dtype() == DType::bf16;
}

void check_rows(const Tensor& a, const Tensor& b, const char* what) {
    FUCINA_CHECK(
        a.rows() == b.rows() && a.row_size() == b.row_size() && float_cells(a) && float_cells(b),
        what, ": ", a.describe(), " and ", b.describe());
}

}  // namespace

void adamw(const Exec& exec, const AdamW& step, const Tensor& w, const Tensor& grad,
           const Tensor& m, const Tensor& v, PackedCopies* copies) {
    FUCINA_CHECK(w.contiguous() && grad.contiguous() && m.contiguous() && v.contiguous() &&
                     w.size() == grad.size() && w.size() == m.size() && w.size() == v.size() &&
                     w.dtype() == DType::f32 && grad.dtype() == DType::f32 && float_cells(m) &&
                     float_cells(v),
                 "adamw of ", w.describe(), ", ", grad.describe(), ", ", m.describe(), ", ",
                 v.describe());
    FUCINA_RUN(exec, adamw, step, w, grad, m, v, copies);
}

ExactSum sum_of_squares(const Exec& exec, const Tensor& x, int64_t chunks) {
    FUCINA_CHECK(x.contiguous() && x.dtype() == DType::f32, "sum of squares of a ", x.describe());
    FUCINA_CHECK(chunks >= 1 && x.dim(x.rank() - 1) % chunks == 0, chunks,
                 " equal parts of the rows of ", x.describe());
    FUCINA_RUN(exec, sum_of_squares, x, chunks);
}

ExactSum exact_sum(const Exec& exec, const Tensor& x) {
    FUCINA_CHECK(x.contiguous() && x.dtype() == DType::f32, "sum of a ", x.describe());
    FUCINA_RUN(exec, exact_sum, x);
}

void add_in_place(const Exec& exec, const Tensor& y, const Tensor& x) {
    check_rows(y, x, "add_in_place");
    FUCINA_CHECK(y.dtype() == DType::f32, "add to a ", y.describe());
    FUCINA_RUN(exec, add_in_place, y, x);
}

void cast(const Exec& exec, const Tensor& x, const Tensor& out) {
    check_rows(x, out, "cast");
    FUCINA_RUN(exec, cast, x, out);
}

}  // namespace fucina::ops
