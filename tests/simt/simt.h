// What a CUDA kernel sees when the host compiler builds it: CUDA's own names, backed by an executor
// that runs a grid's threads as fibers on one operating-system thread. Included by force before
// every .cu of the SIMT build; nothing here is used by nvcc.
#pragma once
#ifdef __CUDACC__
#error "simt.h is for the host compiler"
#endif
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <vector_types.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "tests/simt/device_memory.h"

// The toolkit's host headers define __shared__ as nothing: a kernel would silently get one copy a
// thread. An undeclared name makes it an error instead.
#undef __shared__
#define __shared__ use_FUCINA_SHARED_or_FUCINA_DYNAMIC_SHARED
#undef __launch_bounds__
#define __launch_bounds__(...)

namespace fucina::simt {

// A kernel broke a rule of the programming model. The message names block, threads and variable.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Which of the ready threads runs next, and in which order the blocks run.
enum class Order { fifo, lifo, random };
// When asynchronous operations happen: when nothing else can go on, when they are issued, any time.
enum class Lateness { late, early, random };
struct Options {
    Order order = Order::fifo;
    uint32_t seed = 1;  // of what is random
    Lateness lateness = Lateness::late;
};
inline Options options;

constexpr int kMultiprocessors = 3;  // that persistent kernels make blocks for

struct Statistics {
    uint64_t blocks = 0, switches = 0, accesses = 0;  // accesses: shared-memory accesses checked
};
inline Statistics statistics;

struct Place {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    int id = 0;  // within the block
};
inline thread_local const Place* here = nullptr;  // of the running thread

struct LaunchShape {
    dim3 grid, block;
    size_t smem = 0;  // bytes of dynamic shared memory
    int cluster = 1;  // blocks that run together, along x
};
// Runs the kernel once for each thread of the grid. Throws Error.
void run_grid(const LaunchShape& shape, const std::function<void()>& kernel);

// The place of a call in a kernel, for messages and to tell divergent barriers apart.
struct Site {
    const char* file = nullptr;
    int line = 0;
    static Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
    bool operator==(const Site& other) const {
        return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
    }
};

void* static_shared(const void* declaration, const char* name, size_t bytes, size_t align);
void* dynamic_shared(const char* name, size_t align);

enum class BarrierKind { sync, count, all, any };
int block_barrier(BarrierKind kind, int value, Site site);

enum class WarpKind { sync, shuffle, shuffle_up, shuffle_down, shuffle_xor, ballot };
struct WarpOperation {
    WarpKind kind = WarpKind::sync;
    uint32_t mask = 0;
    uint64_t value = 0;
    int lane = 0;    // shuffles: lane, distance or lane mask
    int width = 32;  // shuffles
    Site site;
};
uint64_t warp_operation(const WarpOperation& operation);

template <class T>
T shuffle(WarpKind kind, uint32_t mask, T value, int lane, int width, Site site) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = warp_operation({kind, mask, bits, lane, width, site});
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace fucina::simt
#include "tests/simt/hopper.h"

#define threadIdx (::fucina::simt::here->thread)
#define blockIdx (::fucina::simt::here->block)
#define blockDim (::fucina::simt::here->block_dim)
#define gridDim (::fucina::simt::here->grid_dim)
constexpr int warpSize = 32;

// Shared memory: FUCINA_SHARED(float[32], partial); the type may be an array. Each declaration is
// known by the address of its own marker.
#define FUCINA_SHARED(type, name)                                                         \
    auto& name = *static_cast<std::type_identity_t<type>*>(::fucina::simt::static_shared( \
        [] {                                                                              \
            static char marker;                                                           \
            return &marker;                                                               \
        }(),                                                                              \
        #name, sizeof(type), alignof(type)))
#define FUCINA_DYNAMIC_SHARED(name, alignment) \
    auto* name = static_cast<unsigned char*>(::fucina::simt::dynamic_shared(#name, alignment))

#define FUCINA_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FUCINA_SITE) {
    block_barrier(fucina::simt::BarrierKind::sync, 0, {file, line});
}
inline int __syncthreads_count(int predicate, FUCINA_SITE) {
    return block_barrier(fucina::simt::BarrierKind::count, predicate, {file, line});
}
inline int __syncthreads_and(int predicate, FUCINA_SITE) {
    return block_barrier(fucina::simt::BarrierKind::all, predicate, {file, line});
}
inline int __syncthreads_or(int predicate, FUCINA_SITE) {
    return block_barrier(fucina::simt::BarrierKind::any, predicate, {file, line});
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, FUCINA_SITE) {
    fucina::simt::warp_operation({.mask = mask, .site = {file, line}});
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, FUCINA_SITE) {
    return static_cast<uint32_t>(
        fucina::simt::warp_operation({.kind = fucina::simt::WarpKind::ballot,
                                      .mask = mask,
                                      .value = predicate != 0,
                                      .site = {file, line}}));
}
inline int __any_sync(uint32_t mask, int predicate, FUCINA_SITE) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, FUCINA_SITE) {
    return __ballot_sync(mask, predicate, file, line) == mask;
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32, FUCINA_SITE) {
    return shuffle(fucina::simt::WarpKind::shuffle, mask, value, lane, width, {file, line});
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, FUCINA_SITE) {
    return shuffle(fucina::simt::WarpKind::shuffle_up, mask, value, static_cast<int>(delta), width,
                   {file, line});
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, FUCINA_SITE) {
    return shuffle(fucina::simt::WarpKind::shuffle_down, mask, value, static_cast<int>(delta),
                   width, {file, line});
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32, FUCINA_SITE) {
    return shuffle(fucina::simt::WarpKind::shuffle_xor, mask, value, lane_mask, width,
                   {file, line});
}
#undef FUCINA_SITE

inline uint32_t __float_as_uint(float value) {
    return std::bit_cast<uint32_t>(value);
}
inline long long __double2ll_rn(double value) {
    return std::llrint(value);
}
inline float __ll2float_rn(long long value) {
    return static_cast<float>(value);
}
inline int __popc(uint32_t bits) {
    return std::popcount(bits);
}
inline float __uint_as_float(uint32_t bits) {
    return std::bit_cast<float>(bits);
}
