// dW = dyᵀ x in FP8, along the tokens of a leaf of each group: persistent blocks walk over tiles of
// 128 x 128 of a group's dW, with sums of 128 tokens that are promoted. Both operands lie along
// tokens, as FP8 takes nothing else.
#include "kernels/cuda/device/async_copy.h"
#include "kernels/cuda/device/fp8_tile.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/gemm_fp8.h"

namespace fucina::cuda {
namespace {

constexpr int kTile = kFp8Tile, kSlots = 5;
constexpr int kSums = kTile / 2;  // of a thread

struct Slot {
    uint8_t dy[kTile * kTile], x[kTile * kTile];  // [column][token]
};
struct Memory {
    alignas(1024) Slot slots[kSlots];
    alignas(128) float dy_scales[kSlots][kTile];
    alignas(128) float x_scales[kSlots][kTile];
    Ring<kSlots> ring;
};
constexpr uint32_t kSlotBytes = sizeof(Slot) + 2 * kTile * sizeof(float);
using Place = RingPlace<kSlots>;

struct Problem {
    TensorMap dy, x, dy_scales, x_scales;
    TokenBlocks blocks;
    int64_t n = 0, k = 0;
    float* dw = nullptr;
};

struct Tile {
    int64_t group = 0, row = 0, column = 0;  // of dw
    int64_t begin = 0, end = 0;              // blocks of tokens
};

// Tile number `number`; false: there are no more.
__device__ __forceinline__ bool tile_at(const Problem& io, int64_t number, Tile& tile) {
    const int64_t rows = (io.n + kTile - 1) / kTile, columns = (io.k + kTile - 1) / kTile;
    tile.group = number / (rows * columns);
    tile.row = number / columns % rows * kTile;
    tile.column = number % columns * kTile;
    if (tile.group >= io.blocks.groups) return false;
    const int64_t tokens = io.blocks.end(tile.group) - io.blocks.begin(tile.group);
    tile.begin = io.blocks.first_block(tile.group);
    tile.end = tile.begin + (tokens + kTile - 1) / kTile;
    return true;
}

__device__ void produce(const Problem& io, Memory& memory) {
    Tile tile;
    Place place;
    for (int64_t number = blockIdx.x; tile_at(io, number, tile); number += gridDim.x) {
        const int row = static_cast<int>(tile.row), column = static_cast<int>(tile.column);
        for (int64_t block = tile.begin; block < tile.end; ++block, place.advance()) {
            Slot& slot = memory.slots[place.slot];
            Mbarrier* full = &memory.ring.full[place.slot];
            place.wait_empty(memory.ring, kSlotBytes);
            const int number_of = static_cast<int>(block);
            tensor_load(slot.dy, io.dy, number_of * kTile, row, full);
            tensor_load(slot.x, io.x, number_of * kTile, column, full);
            tensor_load(memory.dy_scales[place.slot], io.dy_scales, row, number_of, full);
            tensor_load(memory.x_scales[place.slot], io.x_scales, column, number_of, full);
        }
    }
}

// rows: the scales of this thread's row and of the eighth after it; columns: of its first column.
__device__ __forceinline__ void promote(const float (&part)[kSums], const float* rows,
                                        const float* columns, float (&sum)[kSums]) {
    const float low = rows[0], high = rows[8];
#pragma unroll
    for (int i = 0; i < kSums; i += 4) {
        const auto scale = load<2>(columns + 2 * i);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            sum[i + j] = fmaf(part[i + j], (j < 2 ? low : high) * scale.at[j % 2], sum[i + j]);
    }
}

__device__ __forceinline__ void store_sums(const Problem& io, const Tile& tile, int own_row,
                                           int own_column, const float (&sums)[kSums]) {
    const int64_t row = tile.row + own_row, column = tile.column + own_column;
    float* const dw = io.dw + (tile.group * io.n + row) * io.k + column;
    const bool pairs = io.k % 2 == 0;
#pragma unroll
    for (int i = 0; i < kSums; i += 2) {
        const int down = 8 * (i / 2 % 2), right = 8 * (i / 4);
        if (row + down >= io.n || column + right >= io.k) continue;
        float* const to = dw + down * io.k + right;
        if (pairs) {
            store(to, Pack<float, 2>{sums[i], sums[i + 1]});
        } else {
            to[0] = sums[i];
            if (column + right + 1 < io.k) to[1] = sums[i + 1];
        }
    }
}

__device__ void consume(const Problem& io, Memory& memory) {
    const int t = static_cast<int>(threadIdx.x), lane = t % kWarpSize;
    const int row = t / kWarpSize * 16 + lane / 4, column = 2 * (lane % 4);
    Tile tile;
    Place place;
    for (int64_t number = blockIdx.x; tile_at(io, number, tile); number += gridDim.x) {
        float part[kSums], sum[kSums] = {};
        for (int64_t block = tile.begin; block < tile.end; ++block, place.advance()) {
            place.wait_full(memory.ring);
            fp8_multiply(memory.slots[place.slot].dy, memory.slots[place.slot].x, part);
            promote(part, memory.dy_scales[place.slot] + row, memory.x_scales[place.slot] + column,
                    sum);
            place.release(memory.ring);
        }
        store_sums(io, tile, row, column, sum);
    }
}

__global__ void __launch_bounds__(kRingThreads, 1)
    wgrad_kernel(const __grid_constant__ Problem io) {
    FUCINA_DYNAMIC_SHARED(bytes, 1024);
    Memory& memory = *reinterpret_cast<Memory*>(bytes);
    run_ring(io, memory, memory.ring);
}

}  // namespace

void grouped_wgrad_fp8(const Exec& exec, const GroupedWgradFp8& io) {
    FUCINA_CHECK(io.dw.dtype() == DType::f32 && io.dw.contiguous() &&
                     io.dw.size() == io.blocks.groups * io.dy.values.rows() * io.x.values.rows(),
                 io.dw.describe());
    FUCINA_CHECK(has_wgmma(), "a product in FP8 needs a GPU of compute capability 9.0");
    launch(wgrad_kernel, of_ring(exec, sizeof(Memory)),
           {.dy = fp8_map(io.dy.values),
            .x = fp8_map(io.x.values),
            .dy_scales = fp8_map(io.dy.scales),
            .x_scales = fp8_map(io.x.scales),
            .blocks = io.blocks,
            .n = io.dy.values.rows(),
            .k = io.x.values.rows(),
            .dw = io.dw.data<float>()});
}

}  // namespace fucina::cuda
