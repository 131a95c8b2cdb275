// Maxima over a warp and prefix sums over a block, and neighbours that move together.
#pragma once
#include "kernels/cuda/device/platform.h"

namespace fucina::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Every lane gets the result.
__device__ __forceinline__ float warp_max(float value) {
    for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
    return value;
}

struct Prefix {
    int64_t before = 0;  // sum over the threads before this one
    int64_t total = 0;   // over all of the block
};
// A second call in one kernel needs a barrier in between.
template <int kThreads>
__device__ __forceinline__ Prefix block_prefix(int64_t value) {
    using Partial = int64_t[kThreads / kWarpSize];
    FUCINA_SHARED(Partial, partial);
    const int lane = threadIdx.x % kWarpSize, own_warp = threadIdx.x / kWarpSize;
    int64_t sum = value;
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
        const int64_t other = __shfl_up_sync(kAllLanes, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == kWarpSize - 1) partial[own_warp] = sum;
    __syncthreads();
    Prefix prefix{.before = sum - value};
    for (int warp = 0; warp < kThreads / kWarpSize; ++warp) {
        if (warp < own_warp) prefix.before += partial[warp];
        prefix.total += partial[warp];
    }
    return prefix;
}

// kCount neighbours that are loaded and stored as one.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
    T at[kCount];
};

template <int kCount, class T>
__device__ __forceinline__ Pack<T, kCount> load(const T* from) {
    return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

template <int kCount, class T>
__device__ __forceinline__ void store(T* to, const Pack<T, kCount>& values) {
    *reinterpret_cast<Pack<T, kCount>*>(to) = values;
}

__device__ __forceinline__ float to_float(float value) {
    return value;
}
__device__ __forceinline__ float to_float(__nv_bfloat16 value) {
    return __bfloat162float(value);
}

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16(value);
}

}  // namespace fucina::cuda
