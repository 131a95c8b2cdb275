// CUDA's runtime as far as the program calls it, for the one GPU that the SIMT model is. What is
// put on a stream has run when the call returns. FUCINA_SIMT_GPU describes another GPU, for tests
// of what is refused: "none", or some of "capability=80 driver=12040 memory=1048576".
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "tests/simt/device_memory.h"

namespace fucina::simt {
namespace {

std::string described() {
    const char* const text = std::getenv("FUCINA_SIMT_GPU");
    return text != nullptr ? text : "";
}

int64_t described(const std::string& key, int64_t otherwise) {
    const std::string text = described();
    const size_t at = text.find(key + "=");
    return at == std::string::npos ? otherwise : std::atoll(text.c_str() + at + key.size() + 1);
}

struct Memory {
    std::mutex mutex;
    std::map<void*, size_t> blocks;
    size_t used = 0;
    const size_t total = static_cast<size_t>(described("memory", int64_t{64} << 30));
    // With FUCINA_SIMT_GUARD=1 nobody may touch the memory but kernels and copies.
    const bool guarded = std::getenv("FUCINA_SIMT_GUARD") != nullptr;
    int users = 0;

    void protect(int protection) const {
        for (const auto& [at, bytes] : blocks) mprotect(at, bytes, protection);
    }
};
Memory& memory() {
    static Memory all;
    return all;
}

}  // namespace

DeviceAccess::DeviceAccess() {
    Memory& all = memory();
    if (!all.guarded) return;
    const std::lock_guard lock(all.mutex);
    if (all.users++ == 0) all.protect(PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
    Memory& all = memory();
    if (!all.guarded) return;
    const std::lock_guard lock(all.mutex);
    if (--all.users == 0) all.protect(PROT_NONE);
}

}  // namespace fucina::simt

using namespace fucina::simt;

// tests/nccl has a runtime of its own, which knows several devices.
#define WEAK __attribute__((weak))

extern "C" {

WEAK cudaError_t cudaDriverGetVersion(int* version) {
    *version = static_cast<int>(described("driver", CUDART_VERSION));
    return cudaSuccess;
}

WEAK cudaError_t cudaGetDeviceCount(int* count) {
    *count = described() == "none" ? 0 : 1;
    return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}

WEAK cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    *properties = {};
    std::strcpy(properties->name, "SIMT model");
    const auto capability = static_cast<int>(described("capability", 90));
    properties->major = capability / 10;
    properties->minor = capability % 10;
    properties->totalGlobalMem = memory().total;
    return cudaSuccess;
}

WEAK cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

WEAK cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}

WEAK cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int) {
    std::strncpy(id, "0000:00:00.0", static_cast<size_t>(length));
    return cudaSuccess;
}

WEAK cudaError_t cudaMalloc(void** at, size_t bytes) {
    Memory& all = memory();
    const std::lock_guard lock(all.mutex);
    if (all.used + bytes > all.total) return cudaErrorMemoryAllocation;
    const int protection = all.guarded && all.users == 0 ? PROT_NONE : PROT_READ | PROT_WRITE;
    *at = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*at == MAP_FAILED) return cudaErrorMemoryAllocation;
    all.blocks[*at] = bytes;
    all.used += bytes;
    return cudaSuccess;
}

WEAK cudaError_t cudaFree(void* at) {
    Memory& all = memory();
    const std::lock_guard lock(all.mutex);
    const auto block = all.blocks.find(at);
    if (block == all.blocks.end()) return at == nullptr ? cudaSuccess : cudaErrorInvalidValue;
    munmap(at, block->second);
    all.used -= block->second;
    all.blocks.erase(block);
    return cudaSuccess;
}

WEAK cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    Memory& all = memory();
    const std::lock_guard lock(all.mutex);
    *free = all.total - all.used;
    *total = all.total;
    return cudaSuccess;
}

WEAK cudaError_t cudaMemcpy2DAsync(void* to, size_t to_stride, const void* from, size_t from_stride,
                                   size_t width, size_t height, cudaMemcpyKind, cudaStream_t) {
    if (width > to_stride || width > from_stride) return cudaErrorInvalidPitchValue;
    const DeviceAccess access;
    for (size_t i = 0; i < height; ++i)
        std::memmove(static_cast<char*>(to) + i * to_stride,
                     static_cast<const char*>(from) + i * from_stride, width);
    return cudaSuccess;
}

WEAK cudaError_t cudaMemset2DAsync(void* at, size_t stride, int value, size_t width, size_t height,
                                   cudaStream_t) {
    if (width > stride) return cudaErrorInvalidPitchValue;
    const DeviceAccess access;
    for (size_t i = 0; i < height; ++i)
        std::memset(static_cast<char*>(at) + i * stride, value, width);
    return cudaSuccess;
}

WEAK cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    static std::atomic<uintptr_t> next = 1;  // nobody looks behind it
    *stream = reinterpret_cast<cudaStream_t>(next++);
    return cudaSuccess;
}

WEAK cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return cudaSuccess;
}

WEAK cudaError_t cudaGetLastError() {
    return cudaSuccess;
}

WEAK const char* cudaGetErrorName(cudaError_t status) {
    return status == cudaSuccess ? "cudaSuccess" : "an error of the SIMT model";
}

WEAK const char* cudaGetErrorString(cudaError_t status) {
    switch (status) {
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorInvalidPitchValue:
            return "invalid pitch argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        default:
            return "invalid argument";
    }
}

}  // extern "C"
