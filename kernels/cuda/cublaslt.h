// Dense GEMM through cuBLASLt: y = x · Wᵀ (+ y), all row-major. To the library, whose matrices are
// column-major, that is its "TN" form, the only one offered: it is what FP8 allows too.
//
// Rules, checked before the library (or, under the SIMT model, the reference) is asked; a breach
// throws and names the operand. x and w are bf16; y is bf16 or f32; pointers and row strides are
// multiples of 16 bytes, which the library's tensor-core kernels need (it would take others,
// slowly); K and N are at least 1, M may be 0. Accumulation is fp32; the order of summation is the
// library's, the same for the same shape, strides and device.
#pragma once
#include <memory>

#include "kernels/exec.h"
#include "kernels/tensor.h"

namespace fucina::cuda {

struct LinearTn {
    Tensor x;                 // bf16 [M, K]
    Tensor w;                 // bf16 [N, K]
    Tensor y;                 // [M, N]
    bool accumulate = false;  // adds to y, which must be f32
};

// The library's handle, its workspace on the current device, and the algorithms chosen so far. For
// one stream at a time: calls on two streams would share the workspace.
class CublasLt {
  public:
    CublasLt();
    ~CublasLt();
    CublasLt(const CublasLt&) = delete;
    CublasLt& operator=(const CublasLt&) = delete;

    void linear(const LinearTn& io, Stream stream);

  private:
    struct Library;
    std::unique_ptr<Library> library_;
};

}  // namespace fucina::cuda
