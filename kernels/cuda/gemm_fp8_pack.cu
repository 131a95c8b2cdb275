// pack() in FP8: a block a tile of 128 x 128 of a group's weight, which has one scale.
#include "kernels/cuda/device/fp8.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/gemm_fp8.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kPitch = kFp8Tile + 4;  // columns of bytes meet in few banks

struct Packing {
    const float* w = nullptr;  // [groups, n, k]
    int64_t n = 0, k = 0, tiles_a_row = 0;
    uint8_t* values = nullptr;  // [groups · rows, stride], rows those of W or of Wᵀ
    int64_t stride = 0;
    float* scales = nullptr;  // of blocks, as they lie in values
    bool transposed = false;
};

struct Shared {
    alignas(16) uint8_t codes[kFp8Tile * kPitch];
    float largest[kWarps];
};

// blockIdx: x counts tiles, y groups.
__global__ void __launch_bounds__(kThreads) pack_kernel(const Packing io) {
    FUCINA_SHARED(Shared, shared);
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int64_t down = blockIdx.x / io.tiles_a_row, across = blockIdx.x % io.tiles_a_row;
    const int64_t first = down * kFp8Tile, column = across * kFp8Tile + lane * 4;
    const auto load_four = [&](int row, float(&x)[4]) {
        const float* from = io.w + (blockIdx.y * io.n + first + row) * io.k + column;
        for (int i = 0; i < 4; ++i) x[i] = first + row < io.n && column + i < io.k ? from[i] : 0.0f;
    };
    float largest = kQuantizeFloor;
    for (int row = warp; row < kFp8Tile; row += kWarps) {
        float x[4];
        load_four(row, x);
        for (int i = 0; i < 4; ++i) largest = fmaxf(largest, fabsf(x[i]));
    }
    largest = warp_max(largest);
    if (lane == 0) shared.largest[warp] = largest;
    __syncthreads();
    for (int i = 0; i < kWarps; ++i) largest = fmaxf(largest, shared.largest[i]);
    const float scale = fp8_scale<ScaleFormat::fp32>(largest);
    for (int row = warp; row < kFp8Tile; row += kWarps) {
        float x[4];
        load_four(row, x);
        *reinterpret_cast<uint32_t*>(&shared.codes[row * kPitch + lane * 4]) =
            to_e4m3(x, 1.0f / scale);
    }
    __syncthreads();
    const int64_t rows = io.transposed ? io.k : io.n;
    const int64_t to_row = (io.transposed ? across : down) * kFp8Tile;
    const int64_t to_column = (io.transposed ? down : across) * kFp8Tile + lane * 4;
    for (int row = warp; row < kFp8Tile && to_row + row < rows; row += kWarps) {
        if (to_column >= io.stride) continue;
        uint32_t word = 0;
        for (int i = 0; i < 4; ++i) {
            const int at =
                io.transposed ? (lane * 4 + i) * kPitch + row : row * kPitch + lane * 4 + i;
            word |= uint32_t{shared.codes[at]} << 8 * i;
        }
        *reinterpret_cast<uint32_t*>(io.values + (blockIdx.y * rows + to_row + row) * io.stride +
                                     to_column) = word;
    }
    const int64_t tiles = (io.n + kFp8Tile - 1) / kFp8Tile;
    if (threadIdx.x == 0)
        io.scales[io.transposed ? (blockIdx.y * io.tiles_a_row + across) * tiles + down
                                : (blockIdx.y * tiles + down) * io.tiles_a_row + across] = scale;
}

}  // namespace

PackedWeight pack_fp8(const Exec& exec, const Tensor& w, PackKind kind, PackedWeight packed) {
    const int64_t rows = packed.groups * packed.n, stride = (packed.k + 15) / 16 * 16;
    const auto blocks = [](int64_t count) { return (count + kFp8Tile - 1) / kFp8Tile; };
    fp8_pieces(packed.cut, packed.k);  // checks
    if (!packed.defined() || packed.storage.dtype() != DType::f8_e4m3 ||
        packed.storage.size() != rows * stride)
        packed.storage = exec.empty({rows, stride}, DType::f8_e4m3);
    if (!packed.scales.defined() || packed.scales.rows() != packed.groups * blocks(packed.n) ||
        packed.scales.row_size() != blocks(packed.k))
        packed.scales =
            exec.empty({packed.groups * blocks(packed.n), blocks(packed.k)}, DType::f32);
    if (w.size() == 0) return packed;
    const int64_t n = w.dim(w.rank() - 2), k = w.dim(w.rank() - 1);
    launch(pack_kernel,
           {.grid = dim3(static_cast<unsigned>(blocks(n) * blocks(k)),
                         static_cast<unsigned>(packed.groups)),
            .block = dim3(kThreads),
            .stream = exec.stream},
           {.w = w.data<float>(),
            .n = n,
            .k = k,
            .tiles_a_row = blocks(k),
            .values = reinterpret_cast<uint8_t*>(packed.storage.raw()),
            .stride = stride,
            .scales = packed.scales.data<float>(),
            .transposed = kind == PackKind::dgrad});
    return packed;
}

}  // namespace fucina::cuda
