// Persistent blocks walk over tiles of 128 rows of one expert by 128 columns. One thread of the
// producer warpgroup keeps a ring of slots full by TMA; two math warpgroups multiply 64 rows each,
// and promote. Tiles may end inside an expert's last 128 rows: what is beyond is computed, not
// stored.
#include "kernels/cuda/device/async_copy.h"
#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/fp8_tile.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/gemm_fp8.h"

namespace fucina::cuda {
namespace {

constexpr int kTile = kFp8Tile;  // rows, columns, and k of a slot
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
    int columns = 0, depth_blocks = 0;            // of a chunk
    int chunk = 0, chunks = 1, piece_blocks = 0;  // piece_blocks: of a chunk's share of a part
    FloatRows y;
    bool packed = false;  // y is written 16 bytes at a time

    // Where a chunk's block lies in K.
    __device__ __forceinline__ int depth_block(int block) const {
        return (block / piece_blocks * chunks + chunk) * piece_blocks + block % piece_blocks;
    }
};

using Place = RingPlace<kSlots>;

__device__ void produce(const Problem& io, Memory& memory) {
    TileWalk walk;
    Place place;
    while (walk.advance(io.grid)) {
        const int row = static_cast<int>(walk.row);
        const int w_row = walk.group * io.columns + walk.column * kTile;
        for (int i = 0; i < io.depth_blocks; ++i, place.advance()) {
            const int block = io.depth_block(i);
            Slot& slot = memory.slots[place.slot];
            Mbarrier* full = &memory.ring.full[place.slot];
            place.wait_empty(memory.ring, kSlotBytes);
            tensor_load(slot.x, io.x, block * kTile, row, full);
            tensor_load(slot.w, io.w, block * kTile, w_row, full);
            tensor_load(memory.x_scales[place.slot], io.x_scales, row, block, full);
        }
    }
}

// D's rows of this thread are `row` and row + 8.
__device__ __forceinline__ void promote(const float (&part)[kTile / 2], float low, float high,
                                        float (&sum)[kTile / 2]) {
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) sum[i] = fmaf(part[i], i / 2 % 2 == 0 ? low : high, sum[i]);
}

__device__ __forceinline__ void store_pack(const Problem& io, int64_t row, int column,
                                           const Pack<__nv_bfloat162, 4>& values) {
    auto* const y = static_cast<__nv_bfloat16*>(io.y.data);
    cuda::store<4>(reinterpret_cast<__nv_bfloat162*>(y + row * io.y.stride + column), values);
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
            store_pack(io, to, column, load<4>(&out[row][(pack ^ row % 8) * 4]));
    }
}

// Fp32, or rows that are not aligned.
__device__ __forceinline__ void store_apart(const Problem& io, const TileWalk& walk,
                                            const float (&sum)[kTile / 2]) {
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t row = walk.row + warp * kWarpRows + lane / 4;
    const int column = walk.column * kTile + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i)
        if (row + 8 * (i / 2 % 2) < walk.row_end && column + 8 * (i / 4) + i % 2 < io.columns)
            io.y.store<1>(row + 8 * (i / 2 % 2), column + 8 * (i / 4) + i % 2, {sum[i]});
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
        for (int i = 0; i < io.depth_blocks; ++i, place.advance()) {
            const float w_scale = w_scales[io.depth_block(i)];
            place.wait_full(memory.ring);
            const float low = memory.x_scales[place.slot][row] * w_scale;
            const float high = memory.x_scales[place.slot][row + 8] * w_scale;
            fp8_multiply(memory.slots[place.slot].x, memory.slots[place.slot].w, part);
            place.release(memory.ring);
            promote(part, low, high, sum);
        }
        io.packed ? store(io, walk, memory, sum) : store_apart(io, walk, sum);
    }
}

__global__ void __launch_bounds__(kRingThreads, 1) gemm_kernel(const __grid_constant__ Problem io) {
    FUCINA_DYNAMIC_SHARED(bytes, 1024);
    Memory& memory = *reinterpret_cast<Memory*>(bytes);
    run_ring(io, memory, memory.ring);
}

void check_shapes(const GroupedGemmFp8& io) {
    const Tensor& x = io.x.values;
    const int64_t rows = x.rows(), columns = io.y.row_size(), depth = x.row_size();
    const int64_t blocks = (depth + kTile - 1) / kTile, tiles = (columns + kTile - 1) / kTile;
    FUCINA_CHECK(x.dtype() == DType::f8_e4m3 && io.w.dtype() == DType::f8_e4m3 &&
                     io.w.rows() == io.experts * columns && io.w.row_size() == depth,
                 "x ", x.describe(), ", w ", io.w.describe(), " for ", io.experts, " experts of ",
                 columns, " columns");
    FUCINA_CHECK(io.y.rows() == rows, io.y.describe(), " for ", rows, " rows");
    FUCINA_CHECK(io.x.scales.dtype() == DType::f32 && io.x.scales.rows() == blocks &&
                     io.x.scales.row_size() == rows,
                 "x's scales ", io.x.scales.describe(), " for [", blocks, ", ", rows, "]");
    FUCINA_CHECK(io.w_scales.dtype() == DType::f32 && io.w_scales.rows() == io.experts * tiles &&
                     io.w_scales.row_size() == blocks,
                 "w's scales ", io.w_scales.describe(), " for [", io.experts * tiles, ", ", blocks,
                 "]");
    FUCINA_CHECK(rows < int64_t{1} << 31 && io.w.rows() < int64_t{1} << 31, "more than 2^31 rows");
}

}  // namespace

void grouped_gemm_fp8(const Exec& exec, const GroupedGemmFp8& io) {
    check_shapes(io);
    if (io.x.values.rows() == 0 || io.experts == 0 || io.y.row_size() == 0) return;
    FUCINA_CHECK(io.x.values.row_size() > 0, "K = 0");
    FUCINA_CHECK(has_wgmma(), "a product in FP8 needs a GPU of compute capability 9.0");
    Problem problem{
        .x = fp8_map(io.x.values),
        .w = fp8_map(io.w),
        .x_scales = fp8_map(io.x.scales),
        .w_scales = io.w_scales.data<float>(),
        .w_scale_stride = io.w_scales.row_stride(),
        .grid = {.offsets = io.offsets,
                 .groups = static_cast<int>(io.experts),
                 .rows = io.x.values.rows(),
                 .tile_rows = kTile,
                 .column_tiles = static_cast<int>((io.y.row_size() + kTile - 1) / kTile)},
        .columns = static_cast<int>(io.y.row_size()),
        .chunk = static_cast<int>(io.chunk),
        .y = io.y,
        .packed = io.y.dtype() == DType::bf16 && io.y.row_size() % kPack == 0 &&
                  io.y.row_stride() % kPack == 0 && aligned(io.y.raw(), 16)};
    const KPieces pieces = fp8_pieces(io.cut, io.x.values.row_size());
    problem.chunks = static_cast<int>(pieces.chunks);
    problem.piece_blocks = static_cast<int>((pieces.length + kTile - 1) / kTile);
    problem.depth_blocks = static_cast<int>(pieces.parts) * problem.piece_blocks;
    launch(gemm_kernel, of_ring(exec, sizeof(Memory)), problem);
}

}  // namespace fucina::cuda
