#include "kernels/gemm.h"

#include "kernels/cpu/gemm.h"
#include "kernels/cuda/gemm.h"

namespace fucina::ops {
namespace {

void check_product(const Tensor& x, const RowGroups& rows, const PackedWeight& w) {
    FUCINA_CHECK(x.row_size() == w.k && x.dtype() == w.operands() && w.defined(), "product of ",
                 x.describe(), " with ", name_of(w.dtype), " [", w.n, ", ", w.k, "]");
    const int64_t groups = rows.offsets.defined() ? rows.offsets.rows() - 1 : 1;
    FUCINA_CHECK(groups == w.groups, "rows of ", groups, " groups for ", w.groups);
    FUCINA_CHECK(rows.index.defined() ? rows.index.size() == rows.rows : rows.rows <= x.rows(),
                 x.describe(), " or its index has fewer rows than ", rows.rows);
}

void check_rows(const Tensor& y, int64_t rows, int64_t width, DType type) {
    FUCINA_CHECK(y.rows() >= rows && y.row_size() == width && y.dtype() == type, "output is ",
                 y.describe(), ", expected ", name_of(type), " [", rows, ", ", width, "]");
}

}  // namespace

PackedWeight pack(const Exec& exec, const Tensor& w, PackKind kind, DType compute,
                  PackedWeight previous) {
    FUCINA_RUN(exec, pack, w, kind, compute, std::move(previous));
}

void linear(const Exec& exec, const Tensor& x, const PackedWeight& w, const Tensor& y) {
    grouped_linear(exec, x, {.rows = x.rows()}, w, y);
}

void linear_wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, const LeafTree& tree,
                  const Tensor& dw, bool fp8) {
    FUCINA_CHECK(dy.rows() == x.rows() && tree.rows() == x.rows(), "wgrad of ", dy.describe(),
                 " and ", x.describe(), ", tree of ", tree.rows(), " rows");
    FUCINA_CHECK(!fp8 || dy.dtype() == DType::bf16, "FP8 products of ", dy.describe());
    FUCINA_RUN(exec, linear_wgrad, dy, x, tree, dw, fp8);
}

WgradScratch linear_wgrad_scratch(const LeafTree& tree, int64_t n, int64_t k, DType type) {
    return cpu::linear_wgrad_scratch(tree, n, k, type);
}

void grouped_linear(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& y) {
    check_product(x, rows, w);
    FUCINA_CHECK(!w.gate_up, "a gate_up weight is for gate_up_swiglu");
    check_rows(y, rows.rows, w.n, y.dtype() == DType::f32 ? DType::f32 : w.operands());
    FUCINA_RUN(exec, grouped_linear, x, rows, w, y);
}

void grouped_linear_wgrad(const Exec& exec, const GroupedWgrad& in, const Tensor& dw) {
    FUCINA_CHECK(in.leaves.rank() == 2 && in.leaves.dtype() == DType::i64, "leaves are ",
                 in.leaves.describe());
    FUCINA_RUN(exec, grouped_linear_wgrad, in, dw);
}

void gate_up_swiglu(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h) {
    check_product(x, rows, w);
    FUCINA_CHECK(w.gate_up && w.n % 2 == 0, "gate_up_swiglu takes a gate_up weight");
    if (gate_up.defined()) check_rows(gate_up, rows.rows, w.n, w.operands());
    check_rows(h, rows.rows, w.n / 2, w.operands());
    FUCINA_RUN(exec, gate_up_swiglu, x, rows, w, gate_up, h);
}

void down_swiglu_backward(const Exec& exec, const DownBackward& io) {
    check_product(io.dy, io.rows, io.down);
    const int64_t rows = io.rows.rows, ffn = io.down.n;
    check_rows(io.gate_up, rows, 2 * ffn, io.down.operands());
    check_rows(io.d_gate_up, rows, 2 * ffn, io.down.operands());
    check_rows(io.weighted_h, rows, ffn, io.down.operands());
    FUCINA_RUN(exec, down_swiglu_backward, io);
}

}  // namespace fucina::ops
