// Products of tiles on CUDA cores, for attention: 64 rows of one matrix, of which the block's
// result has as many, against 32 of another. Operands pass through shared memory 64 columns at a
// time, so that heads may have any size. Every sum is one fp32 chain, in order.
#pragma once
#include "kernels/cuda/device/documents.h"
#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/launch.h"

namespace fucina::cuda {

constexpr int kTileThreads = 256;  // 16 x 16
constexpr int kTileSide = 16;
constexpr int kTileRows = 64, kTileOthers = 32, kTileColumns = 64;
constexpr int kOwnRows = kTileRows / kTileSide, kOwnOthers = kTileOthers / kTileSide;

// A thread's rows are kOwnRows successive ones; of the other side it has every 16th.
__device__ __forceinline__ int own_row(int i) {
    return static_cast<int>(threadIdx.x) / kTileSide * kOwnRows + i;
}
__device__ __forceinline__ int own_other(int j) {
    return static_cast<int>(threadIdx.x) % kTileSide + j * kTileSide;
}

// Of each row the columns of each head; the last ones may be in another matrix, which has them once
// for all heads or, with shared_rows, heads one below the other.
struct HeadRows {
    FloatRows own, shared;
    int64_t head_columns = 0;  // between heads
    int64_t shared_rows = 0;
    int own_width = 0, width = 0;
    bool packed = false;  // four columns can be moved at a time

    // Four columns from `column`, a multiple of four; zeros beyond the last.
    __device__ __forceinline__ Pack<float, 4> load(int64_t row, int64_t head, int column) const {
        if (packed) return load_pack<4>(row, head, column);
        Pack<float, 4> values{};
        for (int c = 0; c < 4; ++c)
            if (column + c < width) values.at[c] = load_pack<1>(row, head, column + c).at[0];
        return values;
    }
    __device__ __forceinline__ void store(int64_t row, int64_t head, int column,
                                          const Pack<float, 4>& values) const {
        if (packed) return store_pack(row, head, column, values);
        for (int c = 0; c < 4; ++c)
            if (column + c < width) store_pack(row, head, column + c, Pack<float, 1>{values.at[c]});
    }

  private:
    template <int kPack>
    __device__ __forceinline__ Pack<float, kPack> load_pack(int64_t row, int64_t head,
                                                            int column) const {
        if (column < own_width) return own.load<kPack>(row, head * head_columns + column);
        return shared.load<kPack>(head * shared_rows + row, column - own_width);
    }
    template <int kPack>
    __device__ __forceinline__ void store_pack(int64_t row, int64_t head, int column,
                                               const Pack<float, kPack>& values) const {
        if (column < own_width)
            own.store(row, head * head_columns + column, values);
        else
            shared.store(head * shared_rows + row, column - own_width, values);
    }
};

struct SharedColumns {
    Tensor rows;
    int64_t width = 0, head_rows = 0;
};
inline HeadRows head_rows(const Tensor& own, int64_t head_columns, int64_t own_width,
                          const SharedColumns& shared = {}) {
    HeadRows x{.own = own,
               .shared = shared.rows,
               .head_columns = head_columns,
               .shared_rows = shared.head_rows,
               .own_width = static_cast<int>(own_width),
               .width = static_cast<int>(own_width + shared.width)};
    x.packed =
        packs<4>(own_width, x.own, x.shared) && shared.width % 4 == 0 && head_columns % 4 == 0;
    return x;
}

// Rows are padded so that 16 bytes of eight of them lie in different banks.
template <int kLeft = kTileOthers>
struct Tiles {
    alignas(16) float rows[kTileRows][kTileColumns + 4];
    alignas(16) float others[kTileOthers][kTileColumns + 4];
    alignas(16) float left[kTileRows][kLeft + 4];
};

// 64 columns of the rows, from `column`; zeros where there are no rows, or some of four columns.
template <int kRows>
__device__ __forceinline__ void load_tile(const HeadRows& x, const RowRange& rows, int column,
                                          float (&tile)[kRows][kTileColumns + 4]) {
    const int at = static_cast<int>(threadIdx.x) % kTileSide * 4;
    if (column + at >= x.width) return;  // nobody reads them
#pragma unroll 2
    for (int row = static_cast<int>(threadIdx.x) / kTileSide; row < kRows; row += kTileSide)
        store(&tile[row][at], row < rows.count ? x.load(rows.first + row, rows.head, column + at)
                                               : Pack<float, 4>{});
}

struct Scores {
    float at[kOwnRows][kOwnOthers];
};

// Rows of a · rows of b. Everyone must have read the tiles before, and has again at the end.
template <int kLeft>
__device__ __forceinline__ Scores dot_products(const HeadRows& a, const RowRange& rows,
                                               const HeadRows& b, const RowRange& others,
                                               Tiles<kLeft>& tiles) {
    Scores sum{};
    for (int column = 0; column < a.width; column += kTileColumns) {
        load_tile(a, rows, column, tiles.rows);
        load_tile(b, others, column, tiles.others);
        __syncthreads();
        const int width = own_row(0) < rows.count ? a.width - column : 0;
#pragma unroll 1
        for (int c = 0; c < kTileColumns && c < width; c += 4) {
            Pack<float, 4> x[kOwnRows], y[kOwnOthers];
            for (int i = 0; i < kOwnRows; ++i) x[i] = load<4>(&tiles.rows[own_row(i)][c]);
            for (int j = 0; j < kOwnOthers; ++j) y[j] = load<4>(&tiles.others[own_other(j)][c]);
            for (int k = 0; k < 4; ++k)
                for (int i = 0; i < kOwnRows; ++i)
                    for (int j = 0; j < kOwnOthers; ++j)
                        sum.at[i][j] = fmaf(x[i].at[k], y[j].at[k], sum.at[i][j]);
        }
        __syncthreads();
    }
    return sum;
}

// A thread's part of 64 rows of kGroups · 64 columns: of each 64, four successive ones.
template <int kGroups>
struct RowSums {
    Pack<float, 4> at[kGroups][kOwnRows];
};
__device__ __forceinline__ int own_column(int group) {
    return group * kTileColumns + static_cast<int>(threadIdx.x) % kTileSide * 4;
}

// sums += 32 columns of tiles.left, from `first`, · columns of y from `column`. Barriers as in
// dot_products; what threads wrote to tiles.left before is seen.
template <int kGroups, int kLeft>
__device__ __forceinline__ void add_products(const HeadRows& y, const RowRange& others, int column,
                                             Tiles<kLeft>& tiles, RowSums<kGroups>& sums,
                                             int first = 0) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
        load_tile(y, others, column + group * kTileColumns, tiles.others);
        __syncthreads();
        const bool wanted = column + own_column(group) < y.width;
#pragma unroll 1
        for (int other = 0; wanted && other < others.count; other += 4) {
            Pack<float, 4> left[kOwnRows];
            for (int i = 0; i < kOwnRows; ++i)
                left[i] = load<4>(&tiles.left[own_row(i)][first + other]);
            for (int k = 0; k < 4; ++k) {
                const Pack<float, 4> values = load<4>(&tiles.others[other + k][own_column(0)]);
                for (int i = 0; i < kOwnRows; ++i)
                    for (int c = 0; c < 4; ++c)
                        sums.at[group][i].at[c] =
                            fmaf(left[i].at[k], values.at[c], sums.at[group][i].at[c]);
            }
        }
        __syncthreads();
    }
}

template <int kGroups>
__device__ __forceinline__ void store_sums(const RowSums<kGroups>& sums, const HeadRows& out,
                                           const RowRange& rows, int column) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group)
        for (int i = 0; i < kOwnRows; ++i) {
            const int row = own_row(i), at = column + own_column(group);
            if (row >= rows.count || at >= out.width) continue;
            out.store(rows.first + row, rows.head, at, sums.at[group][i]);
        }
}

// A block for each tile of 64 rows, each head, and each slice of up to four groups of 64 columns,
// which makes all dot products for itself. kernel(groups) is the one for so many, a constant.
template <class Io, class Kernel>
void launch_tiles(const Exec& exec, const Io& io, int64_t heads, int64_t width,
                  const Kernel& kernel, size_t smem = 0) {
    const int64_t groups = (width + kTileColumns - 1) / kTileColumns;
    const LaunchConfig config{
        .grid = dim3(io.documents.template places<kTileRows>(io.tokens),
                     static_cast<unsigned>(heads), static_cast<unsigned>((groups + 3) / 4)),
        .block = dim3(kTileThreads),
        .smem = smem,
        .stream = exec.stream};
    if (groups <= 1) return launch(kernel(std::integral_constant<int, 1>()), config, io);
    if (groups == 2) return launch(kernel(std::integral_constant<int, 2>()), config, io);
    if (groups == 3) return launch(kernel(std::integral_constant<int, 3>()), config, io);
    launch(kernel(std::integral_constant<int, 4>()), config, io);
}

}  // namespace fucina::cuda
