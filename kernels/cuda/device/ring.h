// Persistent blocks of one producer warpgroup, a thread of which keeps a ring of slots in shared
// memory full by TMA, and two math warpgroups, which empty them: which tiles are a block's, which
// slot is next, and how a block begins.
#pragma once
#include "kernels/cuda/device/barrier.h"
#include "kernels/cuda/device/launch.h"

namespace fucina::cuda {

struct TileGrid {
    const int64_t* offsets = nullptr;  // rows of each group, or null: one group has `rows`
    int groups = 0;
    int64_t rows = 0;
    int tile_rows = 0, column_tiles = 0;
};

// The tiles of this block: every gridDim.x-th; within a group rows run fastest, so that blocks at
// work together share its weight.
struct TileWalk {
    int group = 0, column = 0;  // column: of tiles
    int64_t row = 0, row_end = 0;
    int64_t next = blockIdx.x, first = 0;  // first: number of the group's first tile

    __device__ bool advance(const TileGrid& grid) {
        for (; group < grid.groups; ++group) {
            const int64_t begin = grid.offsets != nullptr ? grid.offsets[group] : 0;
            row_end = grid.offsets != nullptr ? grid.offsets[group + 1] : grid.rows;
            const int64_t row_tiles = (row_end - begin + grid.tile_rows - 1) / grid.tile_rows;
            const int64_t tile = next - first;
            if (tile < row_tiles * grid.column_tiles) {
                row = begin + tile % row_tiles * grid.tile_rows;
                column = static_cast<int>(tile / row_tiles);
                next += gridDim.x;
                return true;
            }
            first += row_tiles * grid.column_tiles;
        }
        return false;
    }
};

constexpr int kMathWarpgroups = 2, kMathWarps = 8, kMathThreads = 256, kRingThreads = 384;

// A block a multiprocessor.
inline LaunchConfig of_ring(const Exec& exec, size_t memory) {
    return {.grid = dim3(static_cast<unsigned>(multiprocessors())),
            .block = dim3(kRingThreads),
            .smem = memory,
            .stream = exec.stream};
}

template <int kSlots>
struct Ring {
    Mbarrier full[kSlots], empty[kSlots];  // a full slot has come, each math warp has read it
};

// A place in the ring; it has gone round `round` times.
template <int kSlots>
struct RingPlace {
    int slot = 0;
    uint32_t round = 0;
    __device__ void advance() {
        if (++slot < kSlots) return;
        slot = 0;
        ++round;
    }
    // By the producer: until the slot may be filled, with so many bytes.
    __device__ void wait_empty(Ring<kSlots>& ring, uint32_t bytes) const {
        mbarrier_wait(&ring.empty[slot], (round & 1u) ^ 1u);
        mbarrier_arrive_expect_tx(&ring.full[slot], bytes);
    }
    __device__ void wait_full(Ring<kSlots>& ring) const {
        mbarrier_wait(&ring.full[slot], round & 1u);
    }
    // By all threads of a math warp.
    __device__ void release(Ring<kSlots>& ring) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive(&ring.empty[slot]);
    }
};

// The kernel: produce(io, memory) by one thread, consume(io, memory) by the math warpgroups.
template <int kSlots, class Problem, class Memory>
__device__ __forceinline__ void run_ring(const Problem& io, Memory& memory, Ring<kSlots>& ring) {
    if (threadIdx.x == 0) {
        for (int slot = 0; slot < kSlots; ++slot) {
            mbarrier_init(&ring.full[slot], 1);
            mbarrier_init(&ring.empty[slot], kMathWarps);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < kMathThreads) {
        registers_increase<232>();
        consume(io, memory);
    } else {
        registers_decrease<40>();
        if (threadIdx.x == kMathThreads) produce(io, memory);
    }
}

}  // namespace fucina::cuda
