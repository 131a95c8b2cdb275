// Tiles of 128 x 128 E4M3 values in shared memory: from TMA, to wgmma.
#pragma once
#include "kernels/cuda/device/fp8.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/device/ring.h"
#include "kernels/cuda/device/wgmma.h"

namespace fucina::cuda {

// Boxes of 128 x 128 values, or of 128 of their scales.
inline TensorMap fp8_map(const Tensor& matrix) {
    const bool scales = matrix.dtype() == DType::f32;
    const int bytes = static_cast<int>(size_of(matrix.dtype()));
    return make_tensor_map({.data = matrix.raw(),
                            .element_bytes = bytes,
                            .rows = matrix.rows(),
                            .columns = matrix.row_size(),
                            .row_bytes = matrix.row_stride() * bytes,
                            .box_rows = scales ? 1 : kFp8Tile,
                            .box_columns = kFp8Tile,
                            .swizzle = scales ? Swizzle::none : Swizzle::bytes128});
}

// part = this warpgroup's 64 rows of a times b over 128 of k.
__device__ __forceinline__ void fp8_multiply(const uint8_t* a, const uint8_t* b,
                                             float (&part)[kFp8Tile / 2]) {
    a += threadIdx.x / kWarpgroupSize * (kFp8Tile / kMathWarpgroups) * kFp8Tile;
    wgmma_pin(part);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kFp8Tile; k += 32)
        wgmma_e4m3(part, matrix_descriptor(a + k, Swizzle::bytes128, 8 * kFp8Tile),
                   matrix_descriptor(b + k, Swizzle::bytes128, 8 * kFp8Tile), k != 0);
    wgmma_commit();
    wgmma_pin(part);
    wgmma_wait<0>();
}

}  // namespace fucina::cuda
