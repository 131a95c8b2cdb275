// dW = dyᵀ x along a LeafTree, on CUDA cores: a block a tile of 64 x 64 of one group's dW, which
// goes through all leaves, one chain over a leaf's rows, with its partial sums on a stack.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/leaf_tree.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/device/product_tile.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/gemm_wgmma.h"
#include "kernels/runtime.h"

namespace fucina::cuda {
namespace {

// Where leaves begin, and the last one ends, and how they are added.
struct Leaves {
    const int64_t* offsets = nullptr;  // [groups, stored + 1], or null: one leaf of all rows
    const int64_t* merges = nullptr;   // [count] LeafTree::merges, or null: those of so many leaves
    int64_t rows = 0, stored = 0;
    int64_t count = 0, step = 1;  // leaf i begins at stored leaf i · step
    int waiting = 0;              // partial sums
};

template <class T>
struct Wgrad {
    Matrix<const T> dy, x;
    const int32_t *dy_index = nullptr, *x_index = nullptr;
    Leaves leaves;
    bool more = false;    // the first leaf's sum goes on from dw
    float* dw = nullptr;  // [groups, n, k]
    int64_t n = 0, k = 0;
};

__device__ __forceinline__ int64_t leaf_begin(const Leaves& leaves, int64_t leaf) {
    if (leaves.offsets == nullptr) return leaf * leaves.rows;
    return leaves.offsets[blockIdx.z * (leaves.stored + 1) + leaf * leaves.step];
}
__device__ __forceinline__ int merges_after(const Leaves& leaves, int64_t leaf) {
    return leaves.merges != nullptr ? static_cast<int>(leaves.merges[leaf])
                                    : merges_after_leaf(leaf, leaves.count);
}

// Calls body(sum, element of dw) for this thread's sums that there are.
template <class T, class Body>
__device__ __forceinline__ void for_each_sum(const Wgrad<T>& io, TileSums& sums, const Body& body) {
    const int64_t row = int64_t{blockIdx.y} * kTile + own_row();
    const int64_t column = int64_t{blockIdx.x} * kTile + own_column();
    float* dw = io.dw + (blockIdx.z * io.n + row) * io.k + column;
#pragma unroll
    for (int i = 0; i < kTileSums; ++i)
        if (row + i / kOwn < io.n && column + i % kOwn < io.k)
            body(sums[i / kOwn][i % kOwn], dw[i / kOwn * io.k + i % kOwn]);
}

// blockIdx: x counts tiles of dw's columns, y of its rows, z groups.
template <class T>
__global__ void __launch_bounds__(kTileThreads) wgrad_kernel(const Wgrad<T> io) {
    FUCINA_DYNAMIC_SHARED(bytes, 16);
    TileMemory& memory = *reinterpret_cast<TileMemory*>(bytes);
    const AcrossK<T> dy{io.dy.data, io.dy.stride, io.dy_index, int64_t{blockIdx.y} * kTile, io.n};
    const AcrossK<T> x{io.x.data, io.x.stride, io.x_index, int64_t{blockIdx.x} * kTile, io.k};
    const bool work = dy.column + own_row() < io.n && x.column + own_column() < io.k;
    SumStack stack(memory);
    TileSums sums = {};
    int turn = 0;
    if (io.more) for_each_sum(io, sums, [](float& sum, float& dw) { sum = dw; });
    for (int64_t leaf = 0; leaf < io.leaves.count; ++leaf) {
        for (int i = 0; leaf > 0 && i < kTileSums; ++i) sums[i / kOwn][i % kOwn] = 0;
        add_products(memory, turn, dy, x, leaf_begin(io.leaves, leaf),
                     leaf_begin(io.leaves, leaf + 1), work, sums);
        stack.add(sums, merges_after(io.leaves, leaf), leaf + 1 == io.leaves.count);
    }
    for_each_sum(io, sums, [](float& sum, float& dw) { dw = sum; });
}

template <class T>
void run_wgrad(const Exec& exec, const ops::GroupedWgrad& in, const Leaves& leaves, bool more,
               const Tensor& dw) {
    const int64_t n = in.dy.row_size(), k = in.x.row_size();
    launch(wgrad_kernel<T>,
           {.grid = dim3(blocks_of(k, kTile).x, blocks_of(n, kTile).x,
                         static_cast<unsigned>(dw.size() / (n * k))),
            .block = dim3(kTileThreads),
            .smem = tile_bytes(leaves.waiting),
            .stream = exec.stream},
           {.dy = in.dy,
            .x = in.x,
            .dy_index = in.dy_index.data_or_null<int32_t>(),
            .x_index = in.x_index.data_or_null<int32_t>(),
            .leaves = leaves,
            .more = more,
            .dw = dw.data<float>(),
            .n = n,
            .k = k});
}

void wgrad(const Exec& exec, const ops::GroupedWgrad& in, const Leaves& leaves, bool more,
           const Tensor& dw) {
    const int64_t groups = in.leaves.defined() ? in.leaves.rows() : 1;
    FUCINA_CHECK(in.dy.dtype() == in.x.dtype() && dw.dtype() == DType::f32 && dw.contiguous() &&
                     dw.size() == groups * in.dy.row_size() * in.x.row_size(),
                 "wgrad of ", in.dy.describe(), " and ", in.x.describe(), " into ", dw.describe());
    if (dw.size() == 0 || wgmma_wgrad(exec, {.in = in, .more = more, .dw = dw})) return;
    in.x.dtype() == DType::bf16 ? run_wgrad<__nv_bfloat16>(exec, in, leaves, more, dw)
                                : run_wgrad<float>(exec, in, leaves, more, dw);
}

bool one_leaf() {
    return runtime().numerics == Numerics::fast;
}

}  // namespace

void leaf_wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, bool more, const Tensor& dw) {
    wgrad(exec, {.dy = dy, .x = x}, {.rows = x.rows(), .count = 1}, more, dw);
}

void linear_wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, const LeafTree& tree,
                  const Tensor& dw, bool fp8) {
    if (fp8) return linear_wgrad_fp8(exec, dy, x, tree, dw);
    if (one_leaf() || tree.leaves() == 1) return leaf_wgrad(exec, dy, x, false, dw);
    std::vector<int64_t> table = tree.offsets;
    int waiting = 0, most = 0;
    for (const int merges : tree.merges) {
        table.push_back(merges);
        most = std::max(most, waiting);
        waiting += 1 - merges;
    }
    const Tensor on_device = tensor_of(exec, table);
    const int64_t* const offsets = on_device.data<int64_t>();
    wgrad(exec, {.dy = dy, .x = x},
          {.offsets = offsets,
           .merges = offsets + tree.offsets.size(),
           .stored = tree.leaves(),
           .count = tree.leaves(),
           .waiting = most},
          false, dw);
}

void grouped_linear_wgrad(const Exec& exec, const ops::GroupedWgrad& in, const Tensor& dw) {
    const int64_t stored = in.leaves.row_size() - 1;
    FUCINA_CHECK(in.leaves.contiguous(), "leaves are a strided ", in.leaves.describe());
    if (in.fp8) return grouped_linear_wgrad_fp8(exec, in, dw);
    const int64_t step = one_leaf() ? std::max<int64_t>(stored, 1) : 1, count = stored / step;
    wgrad(exec, in,
          {.offsets = in.leaves.data<int64_t>(),
           .stored = stored,
           .count = count,
           .step = step,
           .waiting = waiting_sums(count)},
          false, dw);
}

}  // namespace fucina::cuda
