#include "kernels/gemm.h"

#include "kernels/reference/reference.h"

namespace fucina::ops {

PackedWeight pack(const Tensor& w, PackKind kind, DType compute, PackedWeight previous) {
    return reference::pack(w, kind, compute, std::move(previous));
}

void linear(const Tensor& x, const PackedWeight& w, const Tensor& y) {
    reference::linear(x, w, y);
}

void linear_wgrad(const Tensor& dy, const Tensor& x, const LeafTree& tree, const Tensor& dw) {
    reference::linear_wgrad(dy, x, tree, dw);
}

void grouped_linear(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& y) {
    reference::grouped_linear(x, rows, w, y);
}

void grouped_linear_wgrad(const GroupedWgrad& in, const Tensor& dw) {
    reference::grouped_linear_wgrad(in, dw);
}

void gate_up_swiglu(const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h) {
    reference::gate_up_swiglu(x, rows, w, gate_up, h);
}

void down_swiglu_backward(const DownBackward& io) {
    reference::down_swiglu_backward(io);
}

}  // namespace fucina::ops
