// Quantisation, one block a tile of 128 x 128: rows are quantised as they are read, and kept in
// shared memory for the columns. A word holds two neighbours of a row.
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/quantize.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTile = 128;
constexpr int kRowWords = kTile / 2;
constexpr float kLargest = 448.0f, kFloor = 1e-4f;
static_assert(kTile == kQuantizeBlock && kTile == 4 * kWarpSize);

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

template <ScaleFormat kFormat>
__device__ __forceinline__ float scale_of(float largest) {
    const float scale = largest / kLargest;
    if (kFormat == ScaleFormat::fp32) return scale;
    // Cut the mantissa; one exponent up if there was any. Infinity has none.
    const uint32_t bits = __float_as_uint(scale);
    return __uint_as_float((bits + 0x7fffffu) & 0xff800000u);
}

// Four neighbours as four E4M3 bytes, the first lowest.
__device__ __forceinline__ uint32_t to_e4m3(const float (&x)[4], float inverse) {
    const auto pair = [&](int i) -> uint32_t {
        return __nv_cvt_float2_to_fp8x2(float2{x[i] * inverse, x[i + 1] * inverse}, __NV_SATFINITE,
                                        __NV_E4M3);
    };
    return pair(0) | pair(2) << 16;
}

__device__ __forceinline__ float largest_of(const float (&x)[4]) {
    const float mine = fmaxf(fmaxf(fabsf(x[0]), fabsf(x[1])), fmaxf(fabsf(x[2]), fabsf(x[3])));
    return fmaxf(warp_max(mine), kFloor);
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
        if (inside) words = *reinterpret_cast<const uint2*>(io.x + row * io.x_stride + column);
        if (tile != nullptr) {
            tile->at(r, 2 * lane) = words.x;
            tile->at(r, 2 * lane + 1) = words.y;
        }
        const float x[4] = {low(words.x), high(words.x), low(words.y), high(words.y)};
        const float scale = scale_of<kFormat>(largest_of(x));
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
        for (int side = 0; side < 2; ++side) {
            float x[4];
            for (int i = 0; i < 4; ++i) x[i] = side == 0 ? low(words[i]) : high(words[i]);
            const float scale = scale_of<kFormat>(largest_of(x));
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

Shape shape_of(const Quantize& io) {
    Shape shape{.x = reinterpret_cast<const uint16_t*>(io.x.data<bfloat16>()),
                .x_stride = io.x.row_stride(),
                .rows = io.x.rows(),
                .columns = io.x.row_size(),
                .row_values = reinterpret_cast<uint8_t*>(io.rows.values.raw()),
                .row_stride = io.rows.values.row_stride(),
                .row_scales = io.rows.scales.data<float>(),
                .row_scale_stride = io.rows.scales.row_stride()};
    if (!io.columns.defined()) return shape;
    shape.column_values = reinterpret_cast<uint8_t*>(io.columns.values.raw());
    shape.column_stride = io.columns.values.row_stride();
    shape.column_scales = io.columns.scales.data<float>();
    shape.column_scale_stride = io.columns.scales.row_stride();
    return shape;
}

template <ScaleFormat kFormat>
void run(const Quantize& io, const LaunchConfig& config) {
    launch(io.columns.defined() ? quantize_kernel<kFormat, true> : quantize_kernel<kFormat, false>,
           config, shape_of(io));
}

}  // namespace

void quantize(const Exec& exec, const Quantize& io) {
    const int64_t rows = io.x.rows(), columns = io.x.row_size();
    const int64_t row_tiles = (rows + kTile - 1) / kTile;
    const int64_t column_tiles = (columns + kTile - 1) / kTile;
    FUCINA_CHECK(columns % 16 == 0, io.x.describe(), ": K is no multiple of 16");
    check_output(io.rows, rows, columns);
    if (io.columns.defined()) check_output(io.columns, columns, row_tiles * kTile);
    FUCINA_CHECK(io.x.row_stride() % 8 == 0 && reinterpret_cast<uintptr_t>(io.x.raw()) % 16 == 0,
                 "rows of ", io.x.describe(), " are not aligned to 16 bytes");
    FUCINA_CHECK(row_tiles <= 65535, io.x.describe(), " has more than 65535 x 128 rows");
    if (rows == 0 || columns == 0) return;
    const LaunchConfig config{
        .grid = dim3(static_cast<unsigned>(column_tiles), static_cast<unsigned>(row_tiles)),
        .block = dim3(kThreads),
        .stream = exec.stream};
    io.format == ScaleFormat::fp32 ? run<ScaleFormat::fp32>(io, config)
                                   : run<ScaleFormat::power_of_two>(io, config);
}

}  // namespace fucina::cuda
