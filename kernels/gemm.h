// Matrix products: dense and grouped (one weight matrix per expert, ragged rows, empty experts
// included).
//
// Notation as in PyTorch: a weight W is [N, K] (out, in), y = x Wᵀ. Rows are tokens.
//   forward  y  [T, N] = x  [T, K] · Wᵀ
//   dgrad    dx [T, K] = dy [T, N] · W
//   wgrad    dW [N, K] = dyᵀ · x, summed over tokens in the order of a LeafTree
//
// Order of summation (part of the contract; exact mode rests on it). A result never depends on the
// number of rows, on a row's position, on threads, or on the instruction set. Per output and leaf,
// in fp32, denormals being zero (FTZ and DAZ):
//   fp32: one FMA chain over k from 0.
//   bf16: as runtime().products names it:
//     amx      k in blocks of 32 from the start of the leaf, a partial one padded with zeros; in
//              each one FMA chain over even k from 0, one over odd k from 0, their sum, added to
//              the running total. TDPBF16PS does it, and FMA on any CPU: the portable order.
//     vdpbf16  one FMA chain over pairs of k, of each pair the odd k first, then the even; a
//              missing last k is a product of zeros. Needs VDPBF16PS (AVX512_BF16).
//     fma      one FMA chain over k from 0; on any CPU.
//   f8_e4m3 (DeepSeek-V3, arXiv 2412.19437 §3.3; kernels/quantize.h): operands are bf16 and are
//     quantised on the way, along k in blocks of 128 from the start of the leaf, a weight in blocks
//     of 128 x 128 of [N, K]. The total is fma(scale · scale, part, total) over the blocks, part
//     being the tensor cores' sum of a block (kernels/tensor_core.h), in fast numerics any.
// Forward and dgrad have a leaf for each chunk of K (or N), as the weight's KCut says, and add the
// leaves' sums along a tree; by default one leaf, all of K. The result is rounded once, at the end.
#pragma once
#include <cstdint>
#include <optional>

#include "kernels/exec.h"
#include "kernels/k_cut.h"
#include "kernels/leaf_tree.h"

namespace fucina {

// A weight in the order that the kernels read: made by pack() once per optimizer step, opaque to
// everyone else. Reads as [groups, n, k]: y has n columns, x has k. dtype is the compute type
// (bf16, f32 or f8_e4m3).
struct PackedWeight {
    DType dtype = DType::f32;
    int64_t groups = 1, n = 0, k = 0;
    bool gate_up = false;  // rows interleaved for gate_up_swiglu
    KCut cut;              // of k
    Tensor storage;
    Tensor scales;  // of f8_e4m3, where storage has not room for them
    bool defined() const { return storage.defined(); }
    // Of what is multiplied, and of the result where it is not fp32.
    DType operands() const { return fp8() ? DType::bf16 : dtype; }
    bool fp8() const { return dtype == DType::f8_e4m3; }
    int64_t bytes() const {
        return (storage.defined() ? storage.bytes() : 0) + (scales.defined() ? scales.bytes() : 0);
    }
};

enum class PackKind {
    forward,  // y = x Wᵀ
    gate_up,  // forward of a fused [2F, K] weight (gate rows, then up rows) for gate_up_swiglu
    dgrad,    // dx = dy W: packs Wᵀ
};

// A contiguous range of rows of x per group. Rows may be taken through an index (row i of the
// product's input is row index[i] of the tensor), so that tokens need not be copied into expert
// order first.
struct RowGroups {
    int64_t rows = 0;  // of the product
    Tensor offsets;    // i64 [groups + 1] into them; undefined: one group has all
    Tensor index;      // i32 [rows] or undefined
};

namespace ops {

// w: fp32 [N, K] or [E, N, K], row-major master weights. The copy is cut as `previous` says, whose
// storage is reused when it fits: pack(w, kind, compute, {.cut = {.chunks = 4}}).
PackedWeight pack(const Exec& exec, const Tensor& w, PackKind kind, DType compute,
                  PackedWeight previous = {});

// x [T, w.k] of w.operands(); y [T, w.n] of the same or f32, which is then the sum unrounded. Row
// strides are honoured.
void linear(const Exec& exec, const Tensor& x, const PackedWeight& w, const Tensor& y);

// dy [T, N], x [T, K] of one dtype; dw fp32 [N, K] is overwritten. tree.rows() == T. fp8: of bf16,
// quantised in blocks of 128 rows.
void linear_wgrad(const Exec& exec, const Tensor& dy, const Tensor& x, const LeafTree& tree,
                  const Tensor& dw, bool fp8 = false);

// Bytes that one thread of linear_wgrad works in. A thread keeps the most it has needed of each.
struct WgradScratch {
    int64_t dy = 0, x = 0, sums = 0;
};
WgradScratch linear_wgrad_scratch(const LeafTree& tree, int64_t n, int64_t k, DType type);

// As linear, with group g's rows times weight g. y [S, n] in group order.
void grouped_linear(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& y);

struct GroupedWgrad {
    Tensor dy, dy_index;  // [*, N]; i32 [rows] or undefined, as RowGroups::index
    Tensor x, x_index;    // [*, K]
    // i64 [E, leaves + 1]: where each leaf of a group's tree, that of so many leaves, begins in the
    // product's rows, and where its last one ends.
    Tensor leaves;
    bool fp8 = false;
};
// dw fp32 [E, N, K] is overwritten; a group without rows gets zeros.
void grouped_linear_wgrad(const Exec& exec, const GroupedWgrad& in, const Tensor& dw);

// SwiGLU MLP's first half in one pass: g = x Wgᵀ, u = x Wuᵀ, h = silu(g)·u, g and u rounded to the
// dtype first. gate_up [S, 2F] receives g | u (kept for backward; may be undefined when only h is
// wanted); h [S, F].
void gate_up_swiglu(const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
                    const Tensor& gate_up, const Tensor& h);

struct DownBackward {
    Tensor dy;  // [*, D], rows taken through rows.index
    RowGroups rows;
    PackedWeight down;    // PackKind::dgrad of down [E, D, F]: reads as n = F, k = D
    Tensor gate_up;       // [S, 2F] saved by forward
    Tensor row_weight;    // fp32 [S] router weight of the row, or undefined for 1
    Tensor d_gate_up;     // out [S, 2F]
    Tensor weighted_h;    // out [S, F] = row_weight · h, the x of down's wgrad
    Tensor d_row_weight;  // out fp32 [S] = dy·down(h), or undefined
};
// Backward through down and SwiGLU: dh = dy·Wdown; d_row_weight = dh·h; then dh scaled by
// row_weight goes through SwiGLU.
void down_swiglu_backward(const Exec& exec, const DownBackward& io);

}  // namespace ops
}  // namespace fucina
