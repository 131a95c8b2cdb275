// A small pipeline of all of Hopper's parts; see hopper_kernels.h. What a Fault changes is marked
// by its name.
#include "kernels/cuda/device/async_copy.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/wgmma.h"
#include "tests/simt/hopper_kernels.h"

namespace fucina::cuda {
namespace {

constexpr int kRows = 64, kDepth = 64, kSlots = 2;
constexpr int kSteps = kPipelineDepth / kDepth, kTiles = kPipelineRows / kRows;
constexpr uint32_t kSlotBytes = 2 * kRows * kDepth * 2;
constexpr int kMathBarrier = 1;

struct Memory {
    alignas(1024) uint16_t a[kSlots][kRows * kDepth];
    alignas(1024) uint16_t b[kSlots][kRows * kDepth];
    alignas(1024) uint16_t out[kRows * kPipelineColumns];
    Mbarrier full[kSlots], empty[kSlots];
};

__device__ void init(Fault fault, Memory& memory) {
    if (threadIdx.x == 0 && fault != Fault::no_init) {
        for (int slot = 0; slot < kSlots; ++slot) {
            mbarrier_init(&memory.full[slot], 1);
            mbarrier_init(&memory.empty[slot], fault == Fault::one_thread_frees ? 1 : 4);
        }
        if (fault == Fault::init_twice) mbarrier_init(&memory.full[0], 1);
        if (fault != Fault::no_fence_after_init) fence_mbarrier_init();
    }
    if (fault != Fault::no_barrier_after_init) __syncthreads();
    if (fault == Fault::mbarrier_overwritten && threadIdx.x == 5) memory.full[1] = 0;
}

__device__ void produce(Fault fault, Memory& memory, const TensorMap& a, const TensorMap& b) {
    for (int i = 0; i < kTiles * kSteps; ++i) {
        const int slot = i % kSlots, tile = i / kSteps, step = i % kSteps;
        const uint32_t parity = static_cast<uint32_t>(i / kSlots % 2);
        Mbarrier* full = &memory.full[slot];
        if (fault != Fault::producer_never_waits)
            mbarrier_wait(&memory.empty[slot],
                          fault == Fault::producer_wrong_parity ? parity : parity ^ 1u);
        uint32_t bytes = kSlotBytes;
        if (fault == Fault::expects_too_little) bytes /= 2;
        if (fault == Fault::expects_one_more) ++bytes;
        if (fault != Fault::no_arrival) mbarrier_arrive_expect_tx(full, bytes);
        if (fault == Fault::too_many_arrivals) mbarrier_arrive(full);
        tensor_load(memory.a[slot], a, step * kDepth, tile * kRows, full);
        tensor_load(memory.b[slot], b, step * kDepth, 0, full);
    }
    if (fault == Fault::load_after_end) {
        mbarrier_wait(&memory.empty[0], 1);
        tensor_load(memory.a[0], a, 0, 0, &memory.full[0]);
    }
}

__device__ void multiply(Fault fault, Memory& memory, int slot, bool accumulate, float (&d)[32]) {
    const int t = static_cast<int>(threadIdx.x);
    if (fault == Fault::three_warps_multiply && t >= 96) return;
    wgmma_pin(d);
    if (fault != Fault::no_wgmma_fence && (fault != Fault::fence_once || !accumulate))
        wgmma_fence();
    for (int k = 0; k < kDepth; k += 16) {
        const Swizzle swizzle =
            fault == Fault::no_swizzle_in ? Swizzle::bytes64 : Swizzle::bytes128;
        int begin = k;
        if (fault == Fault::other_descriptor && t / 32 == 2) begin = 0;
        if (fault == Fault::swizzle_off_pattern) begin += 64;
        const uint64_t a = matrix_descriptor(memory.a[slot] + begin, swizzle, 1024);
        const uint64_t b = matrix_descriptor(memory.b[slot] + k, swizzle, 1024);
        wgmma_bf16<Major::k, Major::k>(d, a, b, accumulate || k > 0);
    }
    wgmma_commit();
    wgmma_pin(d);
}

__device__ void free_slot(Fault fault, Memory& memory, int slot) {
    if (fault == Fault::one_thread_frees) {
        if (threadIdx.x == 0) mbarrier_arrive(&memory.empty[slot]);
        return;
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&memory.empty[slot]);
}

__device__ uint16_t to_bf16(float value) {
    return __bfloat16_as_ushort(__float2bfloat16(value));
}

__device__ void store(Fault fault, Memory& memory, const TensorMap& y, int tile,
                      const float (&d)[32]) {
    const int t = static_cast<int>(threadIdx.x), lane = t % 32;
    if (t == 0 && fault != Fault::staging_reused) bulk_wait_read<0>();
    named_barrier_sync<128>(kMathBarrier);
    for (int i = 0; i < 32; ++i) {
        const int half = fault == Fault::wrong_accumulator_layout ? i % 2 : i / 2 % 2;
        const int row = t / 32 * 16 + lane / 4 + 8 * half;
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        const int chunk = fault == Fault::no_swizzle_out ? column / 8 : column / 8 ^ row % 8;
        memory.out[row * kPipelineColumns + chunk * 8 + column % 8] = to_bf16(d[i]);
    }
    if (fault != Fault::no_proxy_fence) fence_proxy_async();
    if (fault == Fault::barrier_counts_differ && t < 32)
        named_barrier_sync<160>(kMathBarrier);
    else if (fault != Fault::no_barrier_before_store)
        named_barrier_sync<128>(kMathBarrier);
    if (t != 0) return;
    tensor_store(y, 0, tile * kRows, memory.out);
    bulk_commit();
}

__device__ void consume(Fault fault, Memory& memory, const TensorMap& y) {
    for (int tile = 0; tile < kTiles; ++tile) {
        float d[32];
        for (int step = 0; step < kSteps; ++step) {
            const int i = tile * kSteps + step, slot = i % kSlots;
            const uint32_t parity = static_cast<uint32_t>(i / kSlots % 2);
            const bool waits = fault != Fault::one_warp_waits || threadIdx.x < 32;
            if (fault != Fault::consumer_never_waits && waits)
                mbarrier_wait(&memory.full[slot],
                              fault == Fault::consumer_wrong_parity ? parity ^ 1u : parity);
            multiply(fault, memory, slot, step > 0, d);
            if (fault == Fault::slot_freed_before_wait) free_slot(fault, memory, slot);
            const float early = d[5];
            if (fault != Fault::no_wgmma_wait) wgmma_wait<0>();
            if (fault == Fault::accumulator_read_early) d[5] = early;
            if (fault != Fault::slot_freed_before_wait) free_slot(fault, memory, slot);
        }
        store(fault, memory, y, tile, d);
    }
    if (threadIdx.x == 0 && fault != Fault::exit_with_store) bulk_wait_read<0>();
}

__global__ void pipeline_kernel(Fault fault, const __grid_constant__ TensorMap a,
                                const __grid_constant__ TensorMap b,
                                const __grid_constant__ TensorMap y) {
    FUCINA_DYNAMIC_SHARED(bytes, 1024);
    Memory& memory = *reinterpret_cast<Memory*>(bytes);
    init(fault, memory);
    if (threadIdx.x < 128)
        consume(fault, memory, y);
    else if (threadIdx.x == 128)
        produce(fault, memory, a, b);
}

TensorMap map_of(const uint16_t* data, int rows, int columns) {
    return make_tensor_map({.data = data,
                            .element_bytes = 2,
                            .rows = rows,
                            .columns = columns,
                            .row_bytes = columns * 2,
                            .box_rows = kRows,
                            .box_columns = kDepth,
                            .swizzle = Swizzle::bytes128});
}

}  // namespace

void pipeline(Fault fault, const uint16_t* a, const uint16_t* b, uint16_t* y) {
    launch(pipeline_kernel, {.grid = dim3(1), .block = dim3(160), .smem = sizeof(Memory)}, fault,
           map_of(a, kPipelineRows, kPipelineDepth), map_of(b, kPipelineColumns, kPipelineDepth),
           map_of(y, kPipelineRows, kPipelineColumns));
}

}  // namespace fucina::cuda
