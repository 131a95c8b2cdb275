// See example_kernels.h.
#include "tests/simt/example_kernels.h"

#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"

namespace fucina::simt {
namespace {

__device__ __forceinline__ float warp_sum(float value) {
    for (int distance = cuda::kWarpSize / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(cuda::kAllLanes, value, distance);
    return value;
}

using cuda::kAllLanes;

__global__ void transpose_kernel(Flaw flaw, const float* in, float* out) {
    using Tile = float[kTile][kTile + 1];
    FUCINA_SHARED(Tile, tile);
    const int x = static_cast<int>(threadIdx.x);
    const int first = static_cast<int>(threadIdx.y), step = static_cast<int>(blockDim.y);
    for (int y = first; y < kTile; y += step) tile[x][y] = 0.0f;
    __syncthreads();
    for (int y = first; y < kTile; y += step) tile[y][x] = in[y * kTile + x];
    if (flaw != Flaw::no_barrier_before_transposed_read) __syncthreads();
    for (int y = first; y < kTile; y += step) out[y * kTile + x] = tile[x][y];
}

__device__ float sum_of_block(Flaw flaw, float value) {
    using Partial = float[kSumThreads / 32];
    FUCINA_SHARED(Partial, partial);
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    if (flaw != Flaw::no_barrier_after_block_sum_store) __syncthreads();
    const int shift = flaw == Flaw::shared_index_plus_one ? 1 : 0;
    float total = 0;
    for (int warp = 0; warp < kSumThreads / 32; ++warp) total += partial[warp + shift];
    return total;
}

__global__ void two_sums_kernel(Flaw flaw, const float* in, float* out) {
    using Scratch = float[2];
    FUCINA_SHARED(Scratch, scratch);
    const int i = static_cast<int>(threadIdx.x);
    if (flaw == Flaw::read_of_unwritten) out[0] = scratch[0];
    if (flaw == Flaw::barrier_after_exit && i >= 64) return;
    if (flaw != Flaw::divergent_barrier || i < 64) __syncthreads();
    if (flaw == Flaw::two_barriers_of_one_block) {
        if (i < 64)
            __syncthreads();
        else
            __syncthreads();
    }
    const float sum = sum_of_block(flaw, in[i]);
    if (flaw != Flaw::scratch_reused_without_barrier) __syncthreads();
    const float squares = sum_of_block(flaw, in[i] * in[i]);
    if (i != 0) return;
    scratch[0] = sum;
    scratch[1] = squares;
    out[0] = scratch[0];
    out[1] = scratch[1];
}

__global__ void swap_kernel(Flaw flaw, const float* in, float* out) {
    using Values = float[32];
    FUCINA_SHARED(Values, values);
    values[threadIdx.x] = in[threadIdx.x];
    if (flaw != Flaw::syncwarp_missing) __syncwarp();
    out[threadIdx.x] = values[threadIdx.x ^ 1u];
}

__global__ void warp_kernel(Flaw flaw, int* out) {
    const int lane = static_cast<int>(threadIdx.x);
    out[lane] = __shfl_sync(kAllLanes, lane * 10, 5);
    out[32 + lane] = __shfl_up_sync(kAllLanes, lane * 10, 3, 16);
    out[64 + lane] = __shfl_down_sync(kAllLanes, lane * 10, 3, 16);
    out[96 + lane] = __shfl_xor_sync(kAllLanes, lane * 10, 7);
    out[128 + lane] = static_cast<int>(__ballot_sync(kAllLanes, lane % 3 == 0));
    out[160 + lane] = __any_sync(kAllLanes, lane == 31) + 2 * __all_sync(kAllLanes, lane < 31);
    const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
    out[192 + lane] = __shfl_sync(half, lane, lane < 16 ? 1 : 17);
    if (flaw == Flaw::shuffle_by_half_a_warp && lane < 16) __shfl_sync(kAllLanes, lane, 0);
    if (flaw == Flaw::shuffle_from_outside_the_mask && lane < 16) __shfl_sync(0xffffu, lane, 20);
    if (flaw == Flaw::two_operations_of_one_warp) {
        if (lane < 16)
            __syncwarp();
        else
            __shfl_sync(kAllLanes, lane, 0);
    }
}

__global__ void votes_kernel(int* out) {
    const int multiples = __syncthreads_count(threadIdx.x % 3 == 0);
    const int all = __syncthreads_and(threadIdx.x < 96), any = __syncthreads_or(threadIdx.x > 95);
    if (threadIdx.x == 0) out[blockIdx.x] = multiples * 4 + all * 2 + any;
}

__global__ void dynamic_kernel(int* out) {
    FUCINA_DYNAMIC_SHARED(memory, 128);
    const float first = *reinterpret_cast<volatile float*>(memory);
    const auto address = reinterpret_cast<uintptr_t>(memory);
    out[0] = address % 128 == 0 && address % 256 != 0;
    out[1] = first != first;
}

__global__ void overrun_kernel() {
    using Four = float[4];
    FUCINA_SHARED(Four, four);
    float* volatile past = four;
    for (int i = 0; i < 5; ++i) past[i] = 0.0f;
}

__global__ void circular_kernel() {
    const bool shuffles = threadIdx.x >= 32 && threadIdx.x < 48;
    if (shuffles) __shfl_sync(kAllLanes, 0, 0);
    __syncthreads();
}

__global__ void nothing_kernel() {}

}  // namespace

void transpose_tile(Flaw flaw, const float* in, float* out) {
    cuda::launch(transpose_kernel, {.grid = dim3(1), .block = dim3(kTile, 8)}, flaw, in, out);
}
void two_sums(Flaw flaw, const float* in, float* out) {
    cuda::launch(two_sums_kernel, {.grid = dim3(1), .block = dim3(kSumThreads)}, flaw, in, out);
}
void swap_neighbours(Flaw flaw, const float* in, float* out) {
    cuda::launch(swap_kernel, {.grid = dim3(1), .block = dim3(32)}, flaw, in, out);
}
void warp_operations(Flaw flaw, int* out) {
    cuda::launch(warp_kernel, {.grid = dim3(1), .block = dim3(32)}, flaw, out);
}
void votes(int blocks, int* out) {
    cuda::launch(votes_kernel, {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(96)},
                 out);
}
void dynamic_memory(int64_t bytes, int* out) {
    cuda::launch(dynamic_kernel,
                 {.grid = dim3(1), .block = dim3(1), .smem = static_cast<size_t>(bytes)}, out);
}
void overrun() {
    cuda::launch(overrun_kernel, {.grid = dim3(1), .block = dim3(1)});
}
void circular_wait() {
    cuda::launch(circular_kernel, {.grid = dim3(1), .block = dim3(64)});
}
void launch_shape(unsigned grid_x, unsigned grid_y, unsigned block_x, int64_t smem) {
    cuda::launch(
        nothing_kernel,
        {.grid = dim3(grid_x, grid_y), .block = dim3(block_x), .smem = static_cast<size_t>(smem)});
}

}  // namespace fucina::simt
