// What runs a checked LinearTn: cuBLASLt, or under the SIMT model, where device memory is host
// memory, the reference.
#pragma once
#include "kernels/cuda/cublaslt.h"

#if defined(FUCINA_SIMT)

#include "kernels/reference/reference.h"

namespace fucina::cuda {

struct CublasLt::Library {
    void linear(const LinearTn& io, Stream) {
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
};

}  // namespace fucina::cuda

#else

#include <cublasLt.h>

#include <array>
#include <map>

namespace fucina::cuda {

struct CublasLt::Library {
    Library();
    ~Library();
    void linear(const LinearTn& io, Stream stream);

  private:
    // M, N, K, the strides of x, w and y, and whether y is f32: what an algorithm is chosen for.
    using Key = std::array<int64_t, 7>;

    cublasLtHandle_t handle_ = nullptr;
    void* workspace_ = nullptr;
    std::map<Key, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace fucina::cuda

#endif
