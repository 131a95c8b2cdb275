// Small kernels that show the executor's rules, each correct (Flaw::none) or broken in one way.
#pragma once
#include <cstdint>

namespace fucina::simt {

enum class Flaw {
    none,
    no_barrier_before_transposed_read,
    scratch_reused_without_barrier,
    no_barrier_after_block_sum_store,
    shared_index_plus_one,
    read_of_unwritten,
    divergent_barrier,
    two_barriers_of_one_block,
    barrier_after_exit,
    shuffle_by_half_a_warp,
    shuffle_from_outside_the_mask,
    two_operations_of_one_warp,
    syncwarp_missing,
};

constexpr int kTile = 32;
// out[j][i] = in[i][j], through a tile in shared memory; 32 x 8 threads.
void transpose_tile(Flaw flaw, const float* in, float* out);

// out[0] = sum of in, out[1] = sum of squares, by two uses of one scratch array; 128 threads.
constexpr int kSumThreads = 128;
void two_sums(Flaw flaw, const float* in, float* out);

// out[i] = in[i ^ 1] through shared memory and __syncwarp; one warp.
void swap_neighbours(Flaw flaw, const float* in, float* out);

// out[i] = what each warp operation gives to lane i of one warp; 7 rows of 32.
void warp_operations(Flaw flaw, int* out);

// out[block] = the number of threads for which predicate holds, twice, by votes of 96 threads.
void votes(int blocks, int* out);

// Dynamic shared memory of `bytes`, aligned to 128: out[0] = whether it is aligned to exactly that,
// out[1] = whether it began as NaN.
void dynamic_memory(int64_t bytes, int* out);

// Writes one float past its four. Found by the red zone, in every build.
void overrun();

// Two warps: half of the second waits for the other half, which waits for all at the barrier.
void circular_wait();

// A grid of this shape that does nothing.
void launch_shape(unsigned grid_x, unsigned grid_y, unsigned block_x, int64_t smem);

}  // namespace fucina::simt
