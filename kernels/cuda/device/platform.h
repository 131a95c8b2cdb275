// First include of every .cu: CUDA's names, from nvcc or from the SIMT model's forced header, and
// what differs between them.
//
//   FUCINA_SHARED(float[32], partial);     static shared memory; the type may be an array
//   FUCINA_DYNAMIC_SHARED(memory, 1024);   the launch's smem bytes, aligned so
//   FUCINA_PTX(model, "ptx;" : outputs : inputs : clobbers);   an instruction, or the model's call
//   FUCINA_PTX_90A(...)   the same for what Hopper alone has; compiled for others it traps
//
// Kernels call no memcpy on shared memory: the race build would not see it.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace fucina::cuda {
template <class T>
struct SharedType {
    using type = T;
};

// Where a kernel calls an instruction; the SIMT model's messages name it.
struct Site {
    __host__ __device__ static constexpr Site here() { return {}; }
};

// The 32-bit shared-memory address that PTX takes.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
}  // namespace fucina::cuda

#define FUCINA_SHARED(kind, name) __shared__ typename ::fucina::cuda::SharedType<kind>::type name
#define FUCINA_DYNAMIC_SHARED(name, alignment) \
    extern __shared__ __align__(alignment)     \
    unsigned char name[]
#define FUCINA_PTX(model, ...) asm volatile(__VA_ARGS__)
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FUCINA_PTX_90A(model, ...) __trap()
#else
#define FUCINA_PTX_90A(model, ...) FUCINA_PTX(model, __VA_ARGS__)
#endif
#elif !defined(FUCINA_SIMT)
#error "CUDA sources are built by nvcc, or by the host compiler against the SIMT model"
#else
#define FUCINA_PTX(model, ...) model
#define FUCINA_PTX_90A(model, ...) model
namespace fucina::cuda {
using simt::shared_address;
using simt::Site;
}  // namespace fucina::cuda
#endif
