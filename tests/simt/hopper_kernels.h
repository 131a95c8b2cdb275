// Kernels that show Hopper's instructions: each alone, and a small pipeline of all, correct
// (Fault::none) or broken in one way. They are built by nvcc too.
#pragma once
#include <cstdint>
#include <vector>

namespace fucina::cuda {

enum class Element { bf16, e4m3 };

// A tile as it lies in shared memory, and the descriptor's fields.
struct TileImage {
    std::vector<uint8_t> bytes;
    int swizzle = 0;
    uint32_t stride = 0, leading = 16;
    bool mn_major = false;
};
// One instruction of n columns (64, 128, 256): d[128 threads][n / 2 registers], in and out.
void one_wgmma(Element type, int n, const TileImage& a, const TileImage& b, bool accumulate,
               std::vector<float>& d);

// A box loaded by TMA, as it lies in shared memory.
struct Matrix2D {
    const void* data = nullptr;
    int element_bytes = 1;
    int64_t rows = 0, columns = 0, row_bytes = 0;
    int box_rows = 0, box_columns = 0, swizzle = 0;
};
std::vector<uint8_t> load_box(const Matrix2D& matrix, int x, int y);
// Shared memory that lies so, stored by TMA into the matrix.
void store_box(const Matrix2D& matrix, int x, int y, const std::vector<uint8_t>& image);
// What make_tensor_map says of it.
void make_map(const Matrix2D& matrix);

enum class Copying { none, no_wait, no_barrier, read_while_loading, no_commit, misaligned };
// out = in, through shared memory: in[0, 1024) by bulk_load, in[1024, 3072) by async_copy_16 of 128
// threads, all of it back by bulk_store; what lies after `inside` comes back as zeros.
void copy_through_shared(Copying fault, const uint8_t* in, int inside, uint8_t* out);

enum class Pending { none, copy_read, store_overwritten, product_read };
// Two groups each of async_copy_16, bulk_store and wgmma, of which the wait leaves one: out[0, 128)
// = in[0, 128) + 1 by the first store; sums[0] = thread 0's first d of the first product, 32.
void two_groups(Pending fault, const uint8_t* in, uint8_t* out, float* sums);

// out[32] = in[32] from one warp to another, which waits; the first only arrives, and if it `reads
// back` what the other wrote, nothing orders that.
void hand_over(bool reads_back, const int* in, int* out);

// Three warpgroups, of which the last gives registers up and the others take 232, or 240, each.
void move_registers(bool too_many, unsigned threads);

enum class Sharing {
    none,
    no_sync_after_init,
    frees_own_slot_alone,
    exits_early,
    own_block_alone,
    no_such_block,
    expects_half,
};
// Clusters of two blocks: each loads one half of a 64 x 64 table for both, for six rounds; out[i]
// for each of the four blocks is the sum over the rounds of element i, plus the block's rank.
constexpr int kRounds = 6, kTable = 64 * 64, kSharingBlocks = 4;
void share_tables(Sharing fault, const uint16_t* in, uint32_t* out);

enum class Fault {
    none,
    no_barrier_after_init,
    no_fence_after_init,
    no_init,
    init_twice,
    mbarrier_overwritten,
    too_many_arrivals,
    producer_wrong_parity,
    consumer_wrong_parity,
    producer_never_waits,
    consumer_never_waits,
    expects_too_little,
    expects_one_more,
    no_arrival,
    no_wgmma_fence,
    fence_once,
    no_wgmma_wait,
    accumulator_read_early,
    one_warp_waits,
    slot_freed_before_wait,
    one_thread_frees,
    three_warps_multiply,
    other_descriptor,
    no_swizzle_in,
    swizzle_off_pattern,
    no_swizzle_out,
    wrong_accumulator_layout,
    staging_reused,
    no_proxy_fence,
    no_barrier_before_store,
    exit_with_store,
    load_after_end,
    barrier_counts_differ,
};

// y[r, c] = sum over k of a[r, k] b[c, k] in bf16, r < 128, c < 64, k < 256: two tiles of 64 rows
// by a producer warp and a math warpgroup, over a ring of two slots of 64 k.
constexpr int kPipelineRows = 128, kPipelineColumns = 64, kPipelineDepth = 256;
void pipeline(Fault fault, const uint16_t* a, const uint16_t* b, uint16_t* y);

// y[0] = the sum over 4,096 products of ones and x's by wgmma in e4m3, y[1] = the same with every
// 128 added in fp32; x[4096] e4m3.
void sum_4096(const uint8_t* x, const uint8_t* w, float* y);

}  // namespace fucina::cuda
