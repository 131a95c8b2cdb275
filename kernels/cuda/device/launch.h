// launch(kernel, {.grid = ..., .block = ..., .smem = ..., .stream = ...}, arguments...): the one
// way to start a kernel, so that the same source runs on a GPU and on the SIMT model. The grid must
// not be empty. Throws when CUDA refuses the launch.
#pragma once
#include "kernels/cuda/device/platform.h"
#include "kernels/error.h"
#include "kernels/exec.h"

namespace fucina::cuda {

struct LaunchConfig {
    dim3 grid, block;
    size_t smem = 0;  // bytes of dynamic shared memory
    Stream stream = nullptr;
    int cluster = 1;  // blocks along x that share work, and a grid's x is a multiple of
};

// A grid for `count` of something, so many in a block.
inline dim3 blocks_of(int64_t count, int64_t in_a_block) {
    return dim3(static_cast<unsigned>((count + in_a_block - 1) / in_a_block));
}

#if defined(__CUDACC__)
inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        fail(ExitCode::internal, what, ": ", cudaGetErrorName(status), ", ",
             cudaGetErrorString(status));
}
#endif

#if defined(__CUDACC__)
inline int of_current_device(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "the current device");
    check(cudaDeviceGetAttribute(&value, attribute, device), "an attribute of the device");
    return value;
}
// Of the current device: a grid of persistent kernels.
inline int multiprocessors() {
    return of_current_device(cudaDevAttrMultiProcessorCount);
}
// What Hopper alone has: wgmma, and registers that warpgroups pass to each other.
inline bool has_wgmma() {
    return of_current_device(cudaDevAttrComputeCapabilityMajor) == 9;
}
#else
inline int multiprocessors() {
    return simt::kMultiprocessors;
}
inline bool has_wgmma() {
    return true;
}
#endif

template <class... Parameters>
void launch(void (*kernel)(Parameters...), const LaunchConfig& config,
            std::type_identity_t<Parameters>... arguments) {
#if defined(__CUDACC__)
    // A kernel gets 48 KiB, its static ones counted, without asking for more.
    constexpr size_t kWithoutOptIn = 8 << 10;
    if (config.smem > kWithoutOptIn)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(config.smem)),
              "shared memory of a kernel");
    cudaLaunchConfig_t shape{};
    shape.gridDim = config.grid;
    shape.blockDim = config.block;
    shape.dynamicSmemBytes = config.smem;
    shape.stream = config.stream;
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(config.cluster), 1, 1};
    shape.attrs = &cluster;
    shape.numAttrs = config.cluster > 1 ? 1 : 0;
    check(cudaLaunchKernelEx(&shape, kernel, arguments...), "launch of a kernel");
#else
    simt::run_grid({config.grid, config.block, config.smem, config.cluster},
                   [&] { kernel(arguments...); });
#endif
}

}  // namespace fucina::cuda
