// Persistent blocks walk over tiles of 128 rows of one group by 128 rows of its weight; of a
// gate_up weight 64 rows of gate and the same of up, so that a thread has both. One thread of the
// producer warpgroup keeps a ring of slots full by TMA; two math warpgroups multiply 64 rows each.
// Tiles may end inside a group's last 128 rows: what is beyond is computed, not stored.
#include "kernels/cuda/gemm_wgmma.h"

#include "kernels/cuda/device/async_copy.h"
#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/functions.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/ring.h"
#include "kernels/cuda/device/wgmma.h"
#include "kernels/cuda/device/wgmma_operand.h"

namespace fucina::cuda {
namespace {

constexpr int kTile = 128, kHalf = kTile / 2;  // rows of x, and of W in two boxes
constexpr int kDepth = 64;                     // k of a slot: 128 bytes, as wide as the swizzle
constexpr int kSlots = 6;
constexpr int kSums = kTile / 2;  // of a thread: 64 rows by 128 columns in 128 threads

struct Slot {
    __nv_bfloat16 x[kTile * kDepth], w[2][kHalf * kDepth];
};
struct Memory {
    alignas(1024) Slot slots[kSlots];
    Ring<kSlots> ring;
};
using Place = RingPlace<kSlots>;

struct Problem {
    TensorMap x, w;
    TileGrid grid;
    int n = 0, depth_blocks = 0;
    bool gate_up = false;
    FloatRows y, h;  // of gate_up y may have no data
    // Columns of the output in a tile, and from the first box of W to the second.
    __host__ __device__ int tile_columns() const { return gate_up ? kHalf : kTile; }
    __device__ int second_box() const { return gate_up ? n / 2 : kHalf; }
};

__device__ void produce(const Problem& io, Memory& memory) {
    TileWalk walk;
    Place place;
    while (walk.advance(io.grid)) {
        const int row = static_cast<int>(walk.row);
        const int w_row = walk.group * io.n + walk.column * io.tile_columns();
        for (int block = 0; block < io.depth_blocks; ++block, place.advance()) {
            Slot& slot = memory.slots[place.slot];
            Mbarrier* full = &memory.ring.full[place.slot];
            place.wait_empty(memory.ring, sizeof(Slot));
            tensor_load(slot.x, io.x, block * kDepth, row, full);
            tensor_load(slot.w[0], io.w, block * kDepth, w_row, full);
            tensor_load(slot.w[1], io.w, block * kDepth, w_row + io.second_box(), full);
        }
    }
}

// sums goes on over a slot's k.
__device__ __forceinline__ void multiply(Slot& slot, int warpgroup, bool more,
                                         float (&sums)[kSums]) {
    const __nv_bfloat16* x = slot.x + warpgroup * (kTile / kMathWarpgroups) * kDepth;
    constexpr uint32_t kEightRows = 8 * kDepth * sizeof(__nv_bfloat16);
    wgmma_pin(sums);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDepth; k += 16)
        wgmma_bf16<Major::k, Major::k>(
            sums, matrix_descriptor(x + k, Swizzle::bytes128, kEightRows),
            matrix_descriptor(slot.w[0] + k, Swizzle::bytes128, kEightRows), more || k != 0);
    wgmma_commit();
    wgmma_pin(sums);
}

// Two neighbours of a row.
__device__ __forceinline__ void store_pair(const Problem& io, int64_t row, int column,
                                           const float (&sums)[kSums], int i) {
    if (!io.gate_up) {
        if (column < io.n) io.y.store<2>(row, column, {sums[i], sums[i + 1]});
        return;
    }
    const int ffn = io.n / 2;
    if (i >= kSums / 2 || column >= ffn) return;
    Pack<float, 2> gate, up, h;
    for (int j = 0; j < 2; ++j) {
        gate.at[j] = to_float(from_float<__nv_bfloat16>(sums[i + j]));
        up.at[j] = to_float(from_float<__nv_bfloat16>(sums[(i + kSums / 2) % kSums + j]));
        h.at[j] = gate.at[j] * sigmoid(gate.at[j]) * up.at[j];
    }
    io.h.store<2>(row, column, h);
    if (io.y.data == nullptr) return;
    io.y.store<2>(row, column, gate);
    io.y.store<2>(row, ffn + column, up);
}

__device__ void consume(const Problem& io, Memory& memory) {
    const int t = static_cast<int>(threadIdx.x), lane = t % kWarpSize;
    TileWalk walk;
    Place place, before;
    while (walk.advance(io.grid)) {
        float sums[kSums];
        for (int block = 0; block < io.depth_blocks; ++block, place.advance()) {
            place.wait_full(memory.ring);
            multiply(memory.slots[place.slot], t / kWarpgroupSize, block > 0, sums);
            if (block > 0) {
                wgmma_wait<1>();
                before.release(memory.ring);
            }
            before = place;
        }
        wgmma_wait<0>();
        wgmma_pin(sums);
        before.release(memory.ring);
        const int64_t row = walk.row + t / kWarpSize * 16 + lane / 4;
        const int column = walk.column * io.tile_columns() + 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < kSums; i += 2)
            if (row + 8 * (i / 2 % 2) < walk.row_end)
                store_pair(io, row + 8 * (i / 2 % 2), column + 8 * (i / 4), sums, i);
    }
}

__global__ void __launch_bounds__(kRingThreads, 1)
    product_kernel(const __grid_constant__ Problem io) {
    FUCINA_DYNAMIC_SHARED(bytes, 1024);
    Memory& memory = *reinterpret_cast<Memory*>(bytes);
    run_ring(io, memory, memory.ring);
}

bool possible(const WgmmaProduct& io) {
    const auto pairs = [](const Tensor& y) {
        return !y.defined() || (y.row_stride() % 2 == 0 && aligned(y.raw(), 8));
    };
    return wgmma_reads(io.x) && io.w.k % 8 == 0 && io.w.n % 4 == 0 && pairs(io.y) && pairs(io.h) &&
           io.w.groups * io.w.n < INT32_MAX;
}

}  // namespace

bool wgmma_product(const Exec& exec, const WgmmaProduct& io) {
    if (!possible(io)) return false;
    const Tensor x = together(exec, io.x, io.rows.index);
    Problem problem{.x = wgmma_map(x, kTile),
                    .w = wgmma_map(io.w.storage.view({io.w.groups * io.w.n, io.w.k}), kHalf),
                    .n = static_cast<int>(io.w.n),
                    .depth_blocks = static_cast<int>((io.w.k + kDepth - 1) / kDepth),
                    .gate_up = io.w.gate_up,
                    .y = io.y,
                    .h = io.h};
    const int64_t columns = io.w.gate_up ? io.w.n / 2 : io.w.n;
    problem.grid = {.offsets = io.rows.offsets.data_or_null<int64_t>(),
                    .groups = static_cast<int>(io.w.groups),
                    .rows = io.rows.rows,
                    .tile_rows = kTile,
                    .column_tiles = static_cast<int>((columns + problem.tile_columns() - 1) /
                                                     problem.tile_columns())};
    launch(product_kernel, of_ring(exec, sizeof(Memory)), problem);
    return true;
}

}  // namespace fucina::cuda
