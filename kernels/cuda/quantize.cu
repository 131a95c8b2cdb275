// Quantisation, one block a tile of 128 x 128: rows are quantised as they are read, and kept in
// shared memory for the columns. A word holds two neighbours of a row.
#include "kernels/cuda/device/fp8.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/quantize.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTile = kFp8Tile;
constexpr int kRowWords = kTile / 2;

// A column pass reads rows 4·lane + i: one word of skew every four rows puts the 32 lanes into 32
// banks.
struct Tile {
    uint32_t words[kTile * kRowWords + kTile / 4];
    __device__ __forceinline__ uint32_t& at(int row, int word) {
        return words[row * kRowWords + row / 4 + word];
    }
};

struct Shape {
    const uint16_t* x = nullptr;  // bf16
    int64_t x_stride = 0, rows = 0, columns = 0;
    const int32_t* index = nullptr;  // of x's rows, or null
    bool words = false;              // four neighbours can be read as one
    uint8_t* row_values = nullptr;
    int64_t row_stride = 0;
    float* row_scales = nullptr;
    int64_t row_scale_stride = 0;
    uint8_t* column_values = nullptr;  // null: no columns wanted
    int64_t column_stride = 0;
    float* column_scales = nullptr;
    int64_t column_scale_stride = 0;
};

__device__ __forceinline__ float low(uint32_t word) {
    return __uint_as_float(word << 16);
}
__device__ __forceinline__ float high(uint32_t word) {
    return __uint_as_float(word & 0xffff0000u);
}

// Columns [column, column + 4) of a row, zeros beyond its end.
__device__ __forceinline__ uint2 load_four(const Shape& io, int64_t row, int64_t column) {
    const uint16_t* from =
        io.x + (io.index != nullptr ? io.index[row] : row) * io.x_stride + column;
    if (io.words && column + 4 <= io.columns) return *reinterpret_cast<const uint2*>(from);
    uint32_t x[4];
    for (int i = 0; i < 4; ++i) x[i] = column + i < io.columns ? from[i] : 0u;
    return {x[0] | x[1] << 16, x[2] | x[3] << 16};
}

__device__ __forceinline__ float largest_of(const float (&x)[4]) {
    const float mine = fmaxf(fmaxf(fabsf(x[0]), fabsf(x[1])), fmaxf(fabsf(x[2]), fabsf(x[3])));
    return fmaxf(warp_max(mine), kQuantizeFloor);
}

// Lane l of a warp has columns 4l to 4l + 3 of a row. What is read goes to the tile too, if any.
template <ScaleFormat kFormat>
__device__ __forceinline__ void quantize_rows(const Shape& io, Tile* tile) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t first_row = int64_t{blockIdx.y} * kTile;
    const int64_t column = int64_t{blockIdx.x} * kTile + lane * 4;
    for (int r = static_cast<int>(threadIdx.x) / kWarpSize; r < kTile; r += kWarps) {
        const int64_t row = first_row + r;
        const bool inside = row < io.rows && column < io.columns;
        uint2 words{0, 0};
        if (inside) words = load_four(io, row, column);
        if (tile != nullptr) {
            tile->at(r, 2 * lane) = words.x;
            tile->at(r, 2 * lane + 1) = words.y;
        }
        const float x[4] = {low(words.x), high(words.x), low(words.y), high(words.y)};
        const float scale = fp8_scale<kFormat>(largest_of(x));
        if (inside)
            *reinterpret_cast<uint32_t*>(io.row_values + row * io.row_stride + column) =
                to_e4m3(x, 1.0f / scale);
        if (lane == 0 && row < io.rows)
            io.row_scales[int64_t{blockIdx.x} * io.row_scale_stride + row] = scale;
    }
}

// Lane l of a warp has rows 4l to 4l + 3 of two neighbouring columns.
template <ScaleFormat kFormat>
__device__ __forceinline__ void quantize_columns(const Shape& io, Tile& tile) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t first_row = int64_t{blockIdx.y} * kTile + lane * 4;
    for (int word = static_cast<int>(threadIdx.x) / kWarpSize; word < kRowWords; word += kWarps) {
        uint32_t words[4];
        for (int i = 0; i < 4; ++i) words[i] = tile.at(4 * lane + i, word);
        const int64_t column = int64_t{blockIdx.x} * kTile + 2 * word;
        if (column >= io.columns) return;  // the same for all lanes
        for (int side = 0; side < 2 && column + side < io.columns; ++side) {
            float x[4];
            for (int i = 0; i < 4; ++i) x[i] = side == 0 ? low(words[i]) : high(words[i]);
            const float scale = fp8_scale<kFormat>(largest_of(x));
            uint8_t* values = io.column_values + (column + side) * io.column_stride;
            *reinterpret_cast<uint32_t*>(values + first_row) = to_e4m3(x, 1.0f / scale);
            if (lane == 0)
                io.column_scales[int64_t{blockIdx.y} * io.column_scale_stride + column + side] =
                    scale;
        }
    }
}

template <ScaleFormat kFormat, bool kColumns>
__global__ void __launch_bounds__(kThreads) quantize_kernel(const Shape io) {
    if constexpr (kColumns) {
        FUCINA_SHARED(Tile, tile);
        quantize_rows<kFormat>(io, &tile);
        __syncthreads();
        quantize_columns<kFormat>(io, tile);
    } else {
        quantize_rows<kFormat>(io, nullptr);
    }
}

// 128 tokens of a group, as they lie in blocks.
__global__ void __launch_bounds__(kThreads)
    tokens_kernel(const Shape io, const TokenBlocks blocks) {
    FUCINA_SHARED(Tile, tile);
    const int64_t block = blockIdx.y, group = blocks.group_of(block), end = blocks.end(group);
    const int64_t begin = blocks.begin(group) + (block - blocks.first_block(group)) * kTile;
    if (begin >= end) return;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t column = int64_t{blockIdx.x} * kTile + lane * 4;
    for (int r = static_cast<int>(threadIdx.x) / kWarpSize; r < kTile; r += kWarps) {
        uint2 words{0, 0};
        if (begin + r < end && column < io.columns) words = load_four(io, begin + r, column);
        tile.at(r, 2 * lane) = words.x;
        tile.at(r, 2 * lane + 1) = words.y;
    }
    __syncthreads();
    quantize_columns<ScaleFormat::fp32>(io, tile);
}

void check_output(const QuantizedRows& out, int64_t rows, int64_t columns) {
    const int64_t blocks = (columns + kQuantizeBlock - 1) / kQuantizeBlock;
    FUCINA_CHECK(out.values.dtype() == DType::f8_e4m3 && out.values.rows() == rows &&
                     out.values.row_size() == columns,
                 out.values.describe(), " for [", rows, ", ", columns, "]");
    FUCINA_CHECK(out.scales.dtype() == DType::f32 && out.scales.rows() == blocks &&
                     out.scales.row_size() == rows,
                 "scales ", out.scales.describe(), " for [", blocks, ", ", rows, "]");
    FUCINA_CHECK(reinterpret_cast<uintptr_t>(out.values.raw()) % 16 == 0 &&
                     out.values.row_stride() % 16 == 0,
                 "rows of ", out.values.describe(), " are not aligned to 16 bytes");
}

Shape shape_of(const Tensor& x, const Tensor& index) {
    return {.x = reinterpret_cast<const uint16_t*>(x.data<bfloat16>()),
            .x_stride = x.row_stride(),
            .rows = index.defined() ? index.size() : x.rows(),
            .columns = x.row_size(),
            .index = index.data_or_null<int32_t>(),
            .words = x.row_stride() % 4 == 0 && aligned(x.raw(), 8)};
}

void set_columns(const QuantizedRows& columns, Shape& shape) {
    shape.column_values = reinterpret_cast<uint8_t*>(columns.values.raw());
    shape.column_stride = columns.values.row_stride();
    shape.column_scales = columns.scales.data<float>();
    shape.column_scale_stride = columns.scales.row_stride();
}

template <ScaleFormat kFormat>
void run(const Shape& io, const LaunchConfig& config) {
    launch(io.column_values != nullptr ? quantize_kernel<kFormat, true>
                                       : quantize_kernel<kFormat, false>,
           config, io);
}

LaunchConfig config_of(const Exec& exec, int64_t columns, int64_t row_tiles) {
    FUCINA_CHECK(row_tiles <= 65535, "more than 65535 x 128 rows");
    return {.grid = dim3(blocks_of(columns, kTile).x, static_cast<unsigned>(row_tiles)),
            .block = dim3(kThreads),
            .stream = exec.stream};
}

}  // namespace

void quantize(const Exec& exec, const Quantize& io, const Tensor& index) {
    Shape shape = shape_of(io.x, index);
    const int64_t rows = shape.rows, columns = shape.columns;
    const int64_t row_tiles = (rows + kTile - 1) / kTile;
    check_output(io.rows, rows, columns);
    if (io.columns.defined()) check_output(io.columns, columns, row_tiles * kTile);
    if (rows == 0 || columns == 0) return;
    shape.row_values = reinterpret_cast<uint8_t*>(io.rows.values.raw());
    shape.row_stride = io.rows.values.row_stride();
    shape.row_scales = io.rows.scales.data<float>();
    shape.row_scale_stride = io.rows.scales.row_stride();
    if (io.columns.defined()) set_columns(io.columns, shape);
    const LaunchConfig config = config_of(exec, columns, row_tiles);
    io.format == ScaleFormat::fp32 ? run<ScaleFormat::fp32>(shape, config)
                                   : run<ScaleFormat::power_of_two>(shape, config);
}

void quantize_tokens(const Exec& exec, const Tensor& x, const Tensor& index,
                     const TokenBlocks& blocks, const QuantizedRows& columns) {
    Shape shape = shape_of(x, index);
    check_output(columns, shape.columns, blocks.count() * kTile);
    if (shape.rows == 0 || shape.columns == 0) return;
    set_columns(columns, shape);
    launch(tokens_kernel, config_of(exec, shape.columns, blocks.count()), shape, blocks);
}

}  // namespace fucina::cuda
