// What runs a checked LinearTn: cuBLASLt, or a model of it under the SIMT model.
#pragma once
#include "kernels/cuda/cublaslt.h"

#if defined(FUCINA_SIMT)

namespace fucina::cuda {

struct CublasLt::Library {
    void linear(const LinearTn& io, Stream stream);  // tests/simt/cublaslt_model.cpp
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
