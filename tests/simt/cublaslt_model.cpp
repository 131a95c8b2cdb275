// cuBLASLt under the SIMT model: the reference, on device memory.
#include "kernels/cuda/cublaslt_library.h"
#include "tests/reference/reference.h"
#include "tests/simt/device_memory.h"

namespace fucina::cuda {

void CublasLt::Library::linear(const LinearTn& io, Stream) {
    const simt::DeviceAccess access;
    const Tensor w = Tensor::empty({io.w.rows(), io.w.row_size()}, DType::f32);
    reference::cast(io.w, w);
    const PackedWeight packed = reference::pack(w, PackKind::forward, DType::bf16);
    if (!io.accumulate) return reference::linear(io.x, packed, io.y);
    const Tensor product = Tensor::empty({io.y.rows(), io.y.row_size()}, DType::f32);
    reference::linear(io.x, packed, product);
    for (int64_t i = 0; i < product.rows(); ++i)
        for (int64_t j = 0; j < product.row_size(); ++j)
            io.y.row<float>(i)[j] += product.row<float>(i)[j];
}

}  // namespace fucina::cuda
