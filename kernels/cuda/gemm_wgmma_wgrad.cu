// dW = dyᵀ x in bf16 on Hopper's tensor cores, one sum over all of a group's rows: persistent
// blocks walk over tiles of 128 x 128 of a group's dW. Both operands lie as their rows do, tokens
// are k.
#include "kernels/cuda/device/async_copy.h"
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/ring.h"
#include "kernels/cuda/device/wgmma.h"
#include "kernels/cuda/device/wgmma_operand.h"
#include "kernels/cuda/gemm_wgmma.h"

namespace fucina::cuda {
namespace {

constexpr int kTile = 128, kBox = 64;  // a box is 64 tokens by 64 columns: the swizzle's 128 bytes
constexpr int kSlots = 6;
constexpr int kSums = kTile / 2;  // of a thread

using Box = __nv_bfloat16[kBox * kBox];
struct Slot {
    Box dy[2], x[2];
};
struct Memory {
    alignas(1024) Slot slots[kSlots];
    Ring<kSlots> ring;
};
using Place = RingPlace<kSlots>;

struct Problem {
    TensorMap dy, x;
    const int64_t* leaves = nullptr;  // [groups, stored + 1], or null: one group of all rows
    int64_t rows = 0, stored = 0;
    int64_t groups = 0, n = 0, k = 0;
    bool more = false;  // added to dw
    float* dw = nullptr;
};

struct Tile {
    int64_t group = 0, row = 0, column = 0;  // of dw
    int64_t begin = 0, end = 0;              // tokens
};

// Tile number `number`; false: there are no more.
__device__ __forceinline__ bool tile_at(const Problem& io, int64_t number, Tile& tile) {
    const int64_t rows = (io.n + kTile - 1) / kTile, columns = (io.k + kTile - 1) / kTile;
    tile.group = number / (rows * columns);
    tile.row = number / columns % rows * kTile;
    tile.column = number % columns * kTile;
    if (tile.group >= io.groups) return false;
    const int64_t first = tile.group * (io.stored + 1);
    tile.begin = io.leaves != nullptr ? io.leaves[first] : 0;
    tile.end = io.leaves != nullptr ? io.leaves[first + io.stored] : io.rows;
    return true;
}

__device__ void produce(const Problem& io, Memory& memory) {
    Tile tile;
    Place place;
    for (int64_t number = blockIdx.x; tile_at(io, number, tile); number += gridDim.x)
        for (int64_t token = tile.begin; token < tile.end; token += kBox, place.advance()) {
            Slot& slot = memory.slots[place.slot];
            Mbarrier* full = &memory.ring.full[place.slot];
            place.wait_empty(memory.ring, sizeof(Slot));
            for (int i = 0; i < 2; ++i) {
                const int first = i * kBox, t = static_cast<int>(token);
                tensor_load(slot.dy[i], io.dy, static_cast<int>(tile.row) + first, t, full);
                tensor_load(slot.x[i], io.x, static_cast<int>(tile.column) + first, t, full);
            }
        }
}

// Tokens from `count` on are another group's, or nobody's: zeros, by all math threads.
__device__ __forceinline__ void clear(Slot& slot, int count) {
    constexpr int kPack = 8, kPacks = kBox / kPack;
    auto* const boxes = reinterpret_cast<__nv_bfloat16*>(&slot);
    for (int i = static_cast<int>(threadIdx.x); i < 4 * kBox * kPacks; i += kMathThreads)
        if (i / kPacks % kBox >= count) store(boxes + i * kPack, Pack<__nv_bfloat16, kPack>{});
    fence_proxy_async();
    named_barrier_sync<kMathThreads>(1);
}

__device__ __forceinline__ void multiply(Slot& slot, int warpgroup, bool more,
                                         float (&sums)[kSums]) {
    constexpr uint32_t kEightTokens = 8 * kBox * sizeof(__nv_bfloat16);
    wgmma_pin(sums);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kBox; k += 16)
        wgmma_bf16<Major::mn, Major::mn>(
            sums,
            matrix_descriptor(slot.dy[warpgroup] + k * kBox, Swizzle::bytes128, kEightTokens,
                              sizeof(Box)),
            matrix_descriptor(slot.x[0] + k * kBox, Swizzle::bytes128, kEightTokens, sizeof(Box)),
            more || k != 0);
    wgmma_commit();
    wgmma_pin(sums);
}

__device__ __forceinline__ void store_sums(const Problem& io, const Tile& tile,
                                           const float (&sums)[kSums]) {
    const int t = static_cast<int>(threadIdx.x), lane = t % kWarpSize;
    const bool none = tile.begin >= tile.end;
    const int64_t row = tile.row + t / kWarpSize * 16 + lane / 4;
    const int64_t column = tile.column + 2 * (lane % 4);
    float* const dw = io.dw + (tile.group * io.n + row) * io.k + column;
#pragma unroll
    for (int i = 0; i < kSums; i += 2) {
        const int down = 8 * (i / 2 % 2), right = 8 * (i / 4);
        if (row + down >= io.n || column + right >= io.k) continue;
        Pack<float, 2> pair = {none ? 0 : sums[i], none ? 0 : sums[i + 1]};
        float* const to = dw + down * io.k + right;
        if (io.more) pair = {to[0] + pair.at[0], to[1] + pair.at[1]};
        store(to, pair);
    }
}

__device__ void consume(const Problem& io, Memory& memory) {
    Tile tile;
    Place place, before;
    for (int64_t number = blockIdx.x; tile_at(io, number, tile); number += gridDim.x) {
        float sums[kSums] = {};
        for (int64_t token = tile.begin; token < tile.end; token += kBox, place.advance()) {
            Slot& slot = memory.slots[place.slot];
            place.wait_full(memory.ring);
            if (tile.end - token < kBox) clear(slot, static_cast<int>(tile.end - token));
            multiply(slot, static_cast<int>(threadIdx.x) / kWarpgroupSize, token > tile.begin,
                     sums);
            if (token > tile.begin) {
                wgmma_wait<1>();
                before.release(memory.ring);
            }
            before = place;
        }
        wgmma_wait<0>();
        wgmma_pin(sums);
        if (tile.begin < tile.end) before.release(memory.ring);
        store_sums(io, tile, sums);
    }
}

__global__ void __launch_bounds__(kRingThreads, 1)
    wgrad_kernel(const __grid_constant__ Problem io) {
    FUCINA_DYNAMIC_SHARED(bytes, 1024);
    Memory& memory = *reinterpret_cast<Memory*>(bytes);
    run_ring(io, memory, memory.ring);
}

}  // namespace

bool wgmma_wgrad(const Exec& exec, const WgmmaWgrad& io) {
    const int64_t n = io.in.dy.row_size(), k = io.in.x.row_size();
    if (!wgmma_reads(io.in.dy) || !wgmma_reads(io.in.x) || k % 2 != 0 || !aligned(io.dw.raw(), 8))
        return false;
    const Tensor dy = together(exec, io.in.dy, io.in.dy_index);
    const Tensor x = together(exec, io.in.x, io.in.x_index);
    const bool grouped = io.in.leaves.defined();
    const Problem problem{.dy = wgmma_map(dy, kBox),
                          .x = wgmma_map(x, kBox),
                          .leaves = io.in.leaves.data_or_null<int64_t>(),
                          .rows = x.rows(),
                          .stored = grouped ? io.in.leaves.row_size() - 1 : 0,
                          .groups = grouped ? io.in.leaves.rows() : 1,
                          .n = n,
                          .k = k,
                          .more = io.more,
                          .dw = io.dw.data<float>()};
    launch(wgrad_kernel, of_ring(exec, sizeof(Memory)), problem);
    return true;
}

}  // namespace fucina::cuda
