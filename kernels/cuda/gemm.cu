// y = x Wᵀ, dense and grouped, on CUDA cores: a block a tile of 64 rows of one group and 64
// columns. Each column is one chain over a chunk of k; chunks are added along the tree. What is
// done with the sums is the epilogue's: stores, or SwiGLU.
#include "kernels/cuda/gemm.h"

#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/functions.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/leaf_tree.h"
#include "kernels/cuda/device/product_tile.h"
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/gemm_wgmma.h"
#include "kernels/cuda/swiglu.h"

namespace fucina::cuda {
namespace {

template <class T>
struct Product {
    Matrix<const T> x;
    const int32_t* index = nullptr;  // of x's rows, or null
    const int64_t* offsets = nullptr;
    int groups = 0;
    int64_t rows = 0;
    const T* w = nullptr;  // [groups, n, k]
    int64_t n = 0, k = 0;
    int64_t chunks = 0, parts = 0, length = 0;  // KPieces
};

struct RowTile {
    int group = 0;
    int64_t begin = 0, end = 0;  // empty: there is no such tile
};

// Tile number `tile` of all groups' tiles, each group's first one beginning with the group.
template <class T>
__device__ __forceinline__ RowTile row_tile(const Product<T>& io, int64_t tile) {
    for (int group = 0; group < io.groups; ++group) {
        const int64_t begin = io.offsets != nullptr ? io.offsets[group] : 0;
        const int64_t end = io.offsets != nullptr ? io.offsets[group + 1] : io.rows;
        const int64_t first = begin + tile * kTile, tiles = (end - begin + kTile - 1) / kTile;
        if (tile < tiles) return {group, first, first + kTile < end ? first + kTile : end};
        tile -= tiles;
    }
    return {};
}

struct Store {
    FloatRows y;
    int64_t columns = 0;

    static constexpr int kColumns = kTile;  // of the output in a tile
    // The weight's row that makes column `c` of the tile; negative: none.
    __device__ int64_t weight_row(int64_t first, int c) const {
        return first + c < columns ? first + c : -1;
    }
    __device__ void operator()(int64_t row, int64_t first, const float (&sums)[kOwn]) const {
        for (int j = 0; j < kOwn; ++j)
            if (first + own_column() + j < columns)
                y.store<1>(row, first + own_column() + j, {sums[j]});
    }
};

// Of a thread's four columns two are of the gate, two of the same columns of up.
template <class T>
struct Swiglu {
    Matrix<T> gate_up, h;  // gate_up.data may be null
    int64_t ffn = 0;

    static constexpr int kColumns = kTile / 2, kHalf = kOwn / 2;
    __device__ int64_t weight_row(int64_t first, int c) const {
        const int64_t column = first + c / kOwn * kHalf + c % kHalf;
        return column < ffn ? c % kOwn / kHalf * ffn + column : -1;
    }
    __device__ void operator()(int64_t row, int64_t first, const float (&sums)[kOwn]) const {
        for (int j = 0; j < kHalf; ++j) {
            const int64_t column = first + own_column() / 2 + j;
            if (column >= ffn) return;
            const T gate = from_float<T>(sums[j]), up = from_float<T>(sums[kHalf + j]);
            if (gate_up.data != nullptr) {
                gate_up.row(row)[column] = gate;
                gate_up.row(row)[ffn + column] = up;
            }
            const float g = to_float(gate);
            h.row(row)[column] = from_float<T>(g * sigmoid(g) * to_float(up));
        }
    }
};

template <class T, class Epilogue>
__global__ void __launch_bounds__(kTileThreads)
    product_kernel(const Product<T> io, const Epilogue epilogue) {
    FUCINA_DYNAMIC_SHARED(bytes, 16);
    TileMemory& memory = *reinterpret_cast<TileMemory*>(bytes);
    const RowTile tile = row_tile(io, blockIdx.x);
    if (tile.begin >= tile.end) return;
    const int64_t first = int64_t{blockIdx.y} * Epilogue::kColumns;
    AlongK<T> a, b;
    if (const int64_t row = tile.begin + a.own(); row < tile.end)
        a.row = io.x.row(io.index != nullptr ? io.index[row] : row);
    if (const int64_t row = epilogue.weight_row(first, b.own()); row >= 0)
        b.row = io.w + (tile.group * io.n + row) * io.k;
    const bool work =
        tile.begin + own_row() < tile.end && epilogue.weight_row(first, own_column()) >= 0;
    SumStack stack(memory);
    TileSums sums = {};
    int turn = 0;
    for (int64_t chunk = 0; chunk < io.chunks; ++chunk) {
        for (int i = 0; i < kTileSums; ++i) sums[i / kOwn][i % kOwn] = 0;
        for (int64_t part = 0; part < io.parts; ++part) {
            const int64_t k = (part * io.chunks + chunk) * io.length;
            add_products(memory, turn, a, b, k, k + io.length, work, sums);
        }
        stack.add(sums, merges_after_leaf(chunk, io.chunks), chunk + 1 == io.chunks);
    }
    if (!work) return;
    for (int i = 0; i < kOwn; ++i)
        if (tile.begin + own_row() + i < tile.end)
            epilogue(tile.begin + own_row() + i, first, sums[i]);
}

template <class T, class Epilogue>
void run_product(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                 int64_t columns, const Epilogue& epilogue) {
    if (rows.rows == 0 || columns == 0) return;
    const KPieces pieces(w.cut, w.k);
    const Product<T> io{.x = x,
                        .index = rows.index.data_or_null<int32_t>(),
                        .offsets = rows.offsets.data_or_null<int64_t>(),
                        .groups = static_cast<int>(w.groups),
                        .rows = rows.rows,
                        .w = Matrix<const T>(w.storage).data,
                        .n = w.n,
                        .k = w.k,
                        .chunks = pieces.chunks,
                        .parts = pieces.parts,
                        .length = pieces.length};
    // How many tiles there are depends on the groups' sizes, which the device knows: at most these.
    const int64_t tiles = rows.rows / kTile + std::min(w.groups, rows.rows);
    launch(product_kernel<T, Epilogue>,
           {.grid = dim3(static_cast<unsigned>(tiles), blocks_of(columns, Epilogue::kColumns).x),
            .block = dim3(kTileThreads),
            .smem = tile_bytes(waiting_sums(pieces.chunks)),
            .stream = exec.stream},
           io, epilogue);
}

void product(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
             const Tensor& y) {
    if (w.fp8()) return product_fp8(exec, x, rows, w, y);
    if (wgmma_product(exec, {.x = x, .rows = rows, .w = w, .y = y})) return;
    const Store store{.y = y, .columns = w.n};
    w.dtype == DType::bf16 ? run_product<__nv_bfloat16>(exec, x, rows, w, w.n, store)
                           : run_product<float>(exec, x, rows, w, w.n, store);
}

}  // namespace

void grouped_linear(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& y) {
    product(exec, x, rows, w, y);
}

void gate_up_swiglu(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h) {
    const int64_t ffn = w.n / 2;
    if (w.fp8()) {
        const Tensor both = gate_up.defined() ? gate_up.slice(0, rows.rows)
                                              : exec.empty({rows.rows, w.n}, DType::bf16);
        product_fp8(exec, x, rows, w, both);
        return swiglu(exec, both, h.slice(0, rows.rows));
    }
    if (wgmma_product(exec, {.x = x, .rows = rows, .w = w, .y = gate_up, .h = h})) return;
    if (w.dtype == DType::bf16)
        run_product<__nv_bfloat16>(exec, x, rows, w, ffn, Swiglu<__nv_bfloat16>{gate_up, h, ffn});
    else
        run_product<float>(exec, x, rows, w, ffn, Swiglu<float>{gate_up, h, ffn});
}

void down_swiglu_backward(const Exec& exec, const ops::DownBackward& io) {
    const int64_t rows = io.rows.rows, ffn = io.down.n;
    const Tensor dh = exec.empty({rows, ffn}, DType::f32);
    product(exec, io.dy, io.rows, io.down, dh);
    swiglu_backward(exec, {.dh = dh,
                           .gate_up = io.gate_up.slice(0, rows),
                           .row_weight = io.row_weight.data_or_null<float>(),
                           .d_gate_up = io.d_gate_up.slice(0, rows),
                           .weighted_h = io.weighted_h.slice(0, rows),
                           .d_row_weight = io.d_row_weight.data_or_null<float>(),
                           .rows_end = io.rows.offsets.defined()
                                           ? io.rows.offsets.data<int64_t>() + io.down.groups
                                           : nullptr});
}

}  // namespace fucina::cuda
