// Operands of bf16 products that TMA reads into tiles for wgmma.
#pragma once
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/device/tensor_map.h"
#include "kernels/cuda/moe.h"
#include "kernels/runtime.h"

namespace fucina::cuda {

// Boxes of so many rows by 64 columns, 128 bytes, with the swizzle of as many.
inline TensorMap wgmma_map(const Tensor& matrix, int box_rows) {
    return make_tensor_map({.data = matrix.raw(),
                            .element_bytes = 2,
                            .rows = matrix.rows(),
                            .columns = matrix.row_size(),
                            .row_bytes = matrix.row_stride() * 2,
                            .box_rows = box_rows,
                            .box_columns = 64,
                            .swizzle = Swizzle::bytes128});
}

inline bool wgmma_reads(const Tensor& x) {
    return runtime().numerics == Numerics::fast && x.dtype() == DType::bf16 && x.size() > 0 &&
           x.row_stride() % 8 == 0 && aligned(x.raw(), 16) && x.rows() < INT32_MAX && has_wgmma();
}

// Rows that are taken through an index, one after the other, as TMA reads them. A row length that
// is no multiple of 8 is kept one in the stride.
inline Tensor together(const Exec& exec, const Tensor& x, const Tensor& index) {
    if (!index.defined()) return x;
    const Tensor rows =
        exec.empty({index.size(), (x.row_size() + 7) / 8 * 8}, x.dtype()).columns(0, x.row_size());
    gather_rows(exec, x, index, rows);
    return rows;
}

}  // namespace fucina::cuda
