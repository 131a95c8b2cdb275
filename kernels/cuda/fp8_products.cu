// Products in FP8 of what lies in bf16: operands are quantised as they are gathered, and multiplied
// by gemm_fp8.cu and gemm_fp8_wgrad.cu.
#include "kernels/cuda/device/fp8.h"
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/rows.h"
#include "kernels/runtime.h"
#include "kernels/tree_sum.h"

namespace fucina::cuda {
namespace {

int64_t up_to(int64_t count, int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

// [rows, columns] with rows that TMA can read.
QuantizedRows empty_quantized(const Exec& exec, int64_t rows, int64_t columns) {
    return {exec.empty({rows, up_to(columns, 16)}, DType::f8_e4m3).columns(0, columns),
            exec.empty({up_to(columns, kFp8Tile) / kFp8Tile, up_to(rows, 4)}, DType::f32)
                .columns(0, rows)};
}

QuantizedRows quantized_tokens(const Exec& exec, const Tensor& x, const Tensor& index,
                               const TokenBlocks& blocks) {
    const QuantizedRows columns = empty_quantized(exec, x.row_size(), blocks.count() * kFp8Tile);
    quantize_tokens(exec, x, index, blocks, columns);
    return columns;
}

void leaf(const Exec& exec, const ops::GroupedWgrad& in, const TokenBlocks& blocks,
          const Tensor& dw) {
    grouped_wgrad_fp8(exec, {.dy = quantized_tokens(exec, in.dy, in.dy_index, blocks),
                             .x = quantized_tokens(exec, in.x, in.x_index, blocks),
                             .blocks = blocks,
                             .dw = dw});
}

// Leaf after leaf, added as merges say; the first sum is dw itself.
template <class Leaf>
void sum_leaves(const Exec& exec, std::span<const int> merges, const Tensor& dw,
                const Leaf& leaf_sum) {
    std::vector<Tensor> sums;
    for (size_t i = 0; i < merges.size(); ++i) {
        sums.push_back(sums.empty() ? dw : exec.empty(dw.shape(), DType::f32));
        leaf_sum(static_cast<int64_t>(i), sums.back());
        for (int merge = merges[i]; merge > 0; --merge) {
            add_in_place(exec, sums[sums.size() - 2], sums.back());
            sums.pop_back();
        }
    }
}

bool one_leaf() {
    return runtime().numerics == Numerics::fast;
}

}  // namespace

void product_fp8(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                 const Tensor& y) {
    if (rows.rows == 0 || w.n == 0) return;
    const QuantizedRows operand = empty_quantized(exec, rows.rows, w.k);
    quantize(exec, {.x = rows.index.defined() ? x : x.slice(0, rows.rows), .rows = operand},
             rows.index);
    GroupedGemmFp8 product{.x = operand,
                           .w = w.storage.columns(0, w.k),
                           .w_scales = w.scales,
                           .offsets = rows.offsets.data_or_null<int64_t>(),
                           .experts = w.groups,
                           .y = y.slice(0, rows.rows),
                           .cut = w.cut};
    if (w.cut.chunks == 1) return grouped_gemm_fp8(exec, product);
    std::vector<Tensor> sums;
    for (; product.chunk < w.cut.chunks; ++product.chunk) {
        product.y = exec.empty({rows.rows, w.n}, DType::f32);
        grouped_gemm_fp8(exec, product);
        sums.push_back(product.y);
        for (int merges = merges_after(product.chunk); merges > 0; --merges) {
            add_in_place(exec, sums[sums.size() - 2], sums.back());
            sums.pop_back();
        }
    }
    cast(exec, sums.front(), y.slice(0, rows.rows));
}

void linear_wgrad_fp8(const Exec& exec, const Tensor& dy, const Tensor& x, const LeafTree& tree,
                      const Tensor& dw) {
    const LeafTree summed = one_leaf() ? make_leaf_tree({0, tree.rows()}) : tree;
    sum_leaves(exec, summed.merges, dw, [&](int64_t i, const Tensor& sum) {
        const auto at = static_cast<size_t>(i);
        const int64_t begin = summed.offsets[at], end = summed.offsets[at + 1];
        leaf(exec, {.dy = dy.slice(begin, end), .x = x.slice(begin, end)}, {.rows = end - begin},
             sum);
    });
}

void grouped_linear_wgrad_fp8(const Exec& exec, const ops::GroupedWgrad& in, const Tensor& dw) {
    const int64_t stored = in.leaves.row_size() - 1, step = one_leaf() ? stored : 1;
    std::vector<int> merges;
    append_merges(stored / std::max<int64_t>(step, 1), merges);
    const int64_t rows = in.dy_index.defined() ? in.dy_index.size() : in.dy.rows();
    sum_leaves(exec, merges, dw, [&](int64_t i, const Tensor& sum) {
        leaf(exec, in,
             {.leaves = in.leaves.data<int64_t>(),
              .rows = rows,
              .stored = stored,
              .first = i * step,
              .last = (i + 1) * step,
              .groups = in.leaves.rows()},
             sum);
    });
}

}  // namespace fucina::cuda
