#include "kernels/gemm.h"

#include "kernels/cpu/gemm.h"
#include "kernels/cuda/gemm.h"

namespace fucina::ops {

PackedWeight pack(const Exec& exec, const Tensor& w, PackKind kind, DType compute,
                  PackedWeight previous) {
    FUCINA_RUN(exec, pack, w, kind, compute, std::move(previous));
}

void linear(const Exec& exec, const Tensor& x, const PackedWeight& w, const Tensor& y) {
    grouped_linear(exec, x, {.rows = x.rows()}, w, y);
}

void linear_wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, const LeafTree& tree,
                  const Tensor& dw) {
    FUCINA_CHECK(dy.rows() == x.rows() && tree.rows() == x.rows(), "wgrad of ", dy.describe(),
                 " and ", x.describe(), ", tree of ", tree.rows(), " rows");
    FUCINA_RUN(exec, linear_wgrad, dy, x, tree, dw);
}

WgradScratch linear_wgrad_scratch(const LeafTree& tree, int64_t n, int64_t k, DType type) {
    return cpu::linear_wgrad_scratch(tree, n, k, type);
}

void grouped_linear(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& y) {
    FUCINA_RUN(exec, grouped_linear, x, rows, w, y);
}

void grouped_linear_wgrad(const Exec& exec, const GroupedWgrad& in, const Tensor& dw) {
    FUCINA_CHECK(in.leaves.rank() == 2 && in.leaves.dtype() == DType::i64, "leaves are ",
                 in.leaves.describe());
    FUCINA_RUN(exec, grouped_linear_wgrad, in, dw);
}

void gate_up_swiglu(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h) {
    FUCINA_RUN(exec, gate_up_swiglu, x, rows, w, gate_up, h);
}

void down_swiglu_backward(const Exec& exec, const DownBackward& io) {
    FUCINA_RUN(exec, down_swiglu_backward, io);
}

}  // namespace fucina::ops
