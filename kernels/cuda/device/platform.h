// First include of every .cu: CUDA's names, from nvcc or from the SIMT model's forced header, and
// the two declarations that differ between them.
//
//   FUCINA_SHARED(float[32], partial);     static shared memory; the type may be an array
//   FUCINA_DYNAMIC_SHARED(memory, 1024);   the launch's smem bytes, aligned so
//
// Kernels call no memcpy on shared memory: the race build would not see it.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

namespace fucina::cuda {
template <class T>
struct SharedType {
    using type = T;
};
}  // namespace fucina::cuda

#define FUCINA_SHARED(kind, name) __shared__ typename ::fucina::cuda::SharedType<kind>::type name
#define FUCINA_DYNAMIC_SHARED(name, alignment) \
    extern __shared__ __align__(alignment)     \
    unsigned char name[]
#elif !defined(FUCINA_SIMT)
#error "CUDA sources are built by nvcc, or by the host compiler against the SIMT model"
#endif
