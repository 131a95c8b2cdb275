// What persistent blocks with a ring of slots have in common: which tiles are a block's, and which
// slot is next.
#pragma once
#include "kernels/cuda/device/platform.h"

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
};

}  // namespace fucina::cuda
