// Persistent blocks walk over tiles of 128 rows of one expert by 128 columns. One thread of the
// producer warpgroup keeps a ring of slots full by TMA; two math warpgroups multiply 64 rows each,
// and promote. Tiles may end inside an expert's last 128 rows: what is beyond is computed, not
// stored.
#include "kernels/cuda/device/async_copy.h"
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/device/ring.h"
#include "kernels/cuda/device/wgmma.h"
#include "kernels/cuda/gemm_fp8.h"

namespace fucina::cuda {
namespace {

constexpr int kTile = 128;  // rows, columns, and k of a slot
constexpr int kSlots = 5;
constexpr int kWarpRows = 16, kPack = 8;  // rows of D of a warp, columns of one 16-byte store
constexpr int kPacks = kTile / kPack;

struct Slot {
    uint8_t x[kTile * kTile], w[kTile * kTile];
};
struct Memory {
    alignas(1024) Slot slots[kSlots];
    // [row][pack], pack exchanged by row mod 8: neither way do lanes meet in a bank.
    alignas(16) __nv_bfloat162 out[kMathWarps][kWarpRows][kTile / 2];
    alignas(128) float x_scales[kSlots][kTile];
    Ring<kSlots> ring;
};
constexpr uint32_t kSlotBytes = sizeof(Slot) + kTile * sizeof(float);

struct Problem {
    TensorMap x, w, x_scales;
    const float* w_scales = nullptr;
    int64_t w_scale_stride = 0;
    TileGrid grid;
    int columns = 0, depth_blocks = 0;
    Matrix<__nv_bfloat16> y;
};

using Place = RingPlace<kSlots>;

__device__ void produce(const Problem& io, Memory& memory) {
    TileWalk walk;
    Place place;
    while (walk.advance(io.grid)) {
        const int row = static_cast<int>(walk.row);
        const int w_row = walk.group * io.columns + walk.column * kTile;
        for (int block = 0; block < io.depth_blocks; ++block, place.advance()) {
            Slot& slot = memory.slots[place.slot];
            Mbarrier* full = &memory.ring.full[place.slot];
            place.wait_empty(memory.ring, kSlotBytes);
            tensor_load(slot.x, io.x, block * kTile, row, full);
            tensor_load(slot.w, io.w, block * kTile, w_row, full);
            tensor_load(memory.x_scales[place.slot], io.x_scales, row, block, full);
        }
    }
}

// part = 64 rows of x times w over 128 k. D's rows of this thread are `row` and row + 8.
__device__ __forceinline__ void multiply(Slot& slot, int warpgroup, float (&part)[kTile / 2]) {
    const uint8_t* x = slot.x + warpgroup * (kTile / kMathWarpgroups) * kTile;
    wgmma_pin(part);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTile; k += 32)
        wgmma_e4m3(part, matrix_descriptor(x + k, Swizzle::bytes128, 8 * kTile),
                   matrix_descriptor(slot.w + k, Swizzle::bytes128, 8 * kTile), k != 0);
    wgmma_commit();
    wgmma_pin(part);
    wgmma_wait<0>();
}

__device__ __forceinline__ void promote(const float (&part)[kTile / 2], float low, float high,
                                        float (&sum)[kTile / 2]) {
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) sum[i] = fmaf(part[i], i / 2 % 2 == 0 ? low : high, sum[i]);
}

// A warp's 16 rows through shared memory, so that rows are written 256 bytes at a time.
__device__ __forceinline__ void store(const Problem& io, const TileWalk& walk, Memory& memory,
                                      const float (&sum)[kTile / 2]) {
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    auto& out = memory.out[warp];  // read for the tile before: consume has met the warp since
#pragma unroll
    for (int i = 0; i < kTile / 2; i += 2) {
        const int row = lane / 4 + 8 * (i / 2 % 2), pack = i / 4 ^ row % 8;
        out[row][pack * 4 + lane % 4] = __floats2bfloat162_rn(sum[i], sum[i + 1]);
    }
    __syncwarp();
    for (int i = lane; i < kWarpRows * kPacks; i += kWarpSize) {
        const int row = i / kPacks, pack = i % kPacks;
        const int64_t to = walk.row + warp * kWarpRows + row;
        const int column = walk.column * kTile + pack * kPack;
        if (to < walk.row_end && column < io.columns)
            cuda::store<4>(reinterpret_cast<__nv_bfloat162*>(io.y.row(to) + column),
                           load<4>(&out[row][(pack ^ row % 8) * 4]));
    }
}

__device__ void consume(const Problem& io, Memory& memory) {
    const int t = static_cast<int>(threadIdx.x), lane = t % kWarpSize;
    const int row = t / kWarpSize * kWarpRows + lane / 4;
    TileWalk walk;
    Place place;
    while (walk.advance(io.grid)) {
        const int64_t w_tile = int64_t{walk.group} * io.grid.column_tiles + walk.column;
        const float* w_scales = io.w_scales + w_tile * io.w_scale_stride;
        float part[kTile / 2], sum[kTile / 2] = {};
        for (int block = 0; block < io.depth_blocks; ++block, place.advance()) {
            const float w_scale = w_scales[block];
            place.wait_full(memory.ring);
            const float low = memory.x_scales[place.slot][row] * w_scale;
            const float high = memory.x_scales[place.slot][row + 8] * w_scale;
            multiply(memory.slots[place.slot], t / kWarpgroupSize, part);
            place.release(memory.ring);
            promote(part, low, high, sum);
        }
        store(io, walk, memory, sum);
    }
}

__global__ void __launch_bounds__(kRingThreads, 1) gemm_kernel(const __grid_constant__ Problem io) {
    FUCINA_DYNAMIC_SHARED(bytes, 1024);
    Memory& memory = *reinterpret_cast<Memory*>(bytes);
    run_ring(io, memory, memory.ring);
}

TensorMap map_of(const Tensor& matrix, int box_rows, Swizzle swizzle) {
    const int bytes = static_cast<int>(size_of(matrix.dtype()));
    return make_tensor_map({.data = matrix.raw(),
                            .element_bytes = bytes,
                            .rows = matrix.rows(),
                            .columns = matrix.row_size(),
                            .row_bytes = matrix.row_stride() * bytes,
                            .box_rows = box_rows,
                            .box_columns = kTile,
                            .swizzle = swizzle});
}

void check_shapes(const GroupedGemmFp8& io) {
    const Tensor& x = io.x.values;
    const int64_t rows = x.rows(), columns = io.y.row_size(), depth = x.row_size();
    const int64_t blocks = (depth + kTile - 1) / kTile, tiles = (columns + kTile - 1) / kTile;
    FUCINA_CHECK(x.dtype() == DType::f8_e4m3 && io.w.dtype() == DType::f8_e4m3 &&
                     io.w.rows() == io.experts * columns && io.w.row_size() == depth,
                 "x ", x.describe(), ", w ", io.w.describe(), " for ", io.experts, " experts of ",
                 columns, " columns");
    FUCINA_CHECK(io.y.dtype() == DType::bf16 && io.y.rows() == rows, io.y.describe(), " for ", rows,
                 " rows");
    FUCINA_CHECK(io.x.scales.dtype() == DType::f32 && io.x.scales.rows() == blocks &&
                     io.x.scales.row_size() == rows,
                 "x's scales ", io.x.scales.describe(), " for [", blocks, ", ", rows, "]");
    FUCINA_CHECK(io.w_scales.dtype() == DType::f32 && io.w_scales.rows() == io.experts * tiles &&
                     io.w_scales.row_size() == blocks,
                 "w's scales ", io.w_scales.describe(), " for [", io.experts * tiles, ", ", blocks,
                 "]");
    FUCINA_CHECK(depth % 16 == 0 && columns % kPack == 0, "K = ", depth,
                 " must be a multiple of 16, N = ", columns, " of 8");
    FUCINA_CHECK(aligned(io.y.raw(), 16) && io.y.row_stride() % kPack == 0, "rows of ",
                 io.y.describe(), " are not aligned to 16 bytes");
    FUCINA_CHECK(rows < int64_t{1} << 31 && io.w.rows() < int64_t{1} << 31, "more than 2^31 rows");
}

}  // namespace

void grouped_gemm_fp8(const Exec& exec, const GroupedGemmFp8& io) {
    check_shapes(io);
    if (io.x.values.rows() == 0 || io.experts == 0 || io.y.row_size() == 0) return;
    FUCINA_CHECK(io.x.values.row_size() > 0, "K = 0");
    FUCINA_CHECK(has_wgmma(), "a product in FP8 needs a GPU of compute capability 9.0");
    Problem problem{
        .x = map_of(io.x.values, kTile, Swizzle::bytes128),
        .w = map_of(io.w, kTile, Swizzle::bytes128),
        .x_scales = map_of(io.x.scales, 1, Swizzle::none),
        .w_scales = io.w_scales.data<float>(),
        .w_scale_stride = io.w_scales.row_stride(),
        .grid = {.offsets = io.offsets,
                 .groups = static_cast<int>(io.experts),
                 .tile_rows = kTile,
                 .column_tiles = static_cast<int>((io.y.row_size() + kTile - 1) / kTile)},
        .columns = static_cast<int>(io.y.row_size()),
        .depth_blocks = static_cast<int>(io.w_scales.row_size())};
    problem.y = Matrix<__nv_bfloat16>(io.y);
    launch(gemm_kernel,
           {.grid = dim3(static_cast<unsigned>(multiprocessors())),
            .block = dim3(kRingThreads),
            .smem = sizeof(Memory),
            .stream = exec.stream},
           problem);
}

}  // namespace fucina::cuda
