// The tensor that TMA copies boxes of: a matrix in global memory, and how a box lies in shared
// memory. A kernel takes it as `const __grid_constant__ TensorMap`.
#pragma once
#include "kernels/cuda/device/platform.h"
#include "kernels/error.h"
#if defined(__CUDACC__)
#include <cuda.h>
#endif

namespace fucina::cuda {

#if defined(__CUDACC__)
using TensorMap = CUtensorMap;
#else
using simt::TensorMap;
#endif

enum class Swizzle { none = 0, bytes32 = 32, bytes64 = 64, bytes128 = 128 };

struct TensorBox {
    const void* data = nullptr;
    int element_bytes = 1;          // 1, 2 or 4
    int64_t rows = 0, columns = 0;  // of the tensor
    int64_t row_bytes = 0;          // from one row to the next
    int box_rows = 0, box_columns = 0;
    Swizzle swizzle =
        Swizzle::none;  // 16-byte chunk c of row r lies at c ^ (r mod 8) for 128 bytes
};

// What the driver would refuse (CUDA driver API, cuTensorMapEncodeTiled), with the numbers.
inline void check_tensor_box(const TensorBox& box) {
    const int64_t width = int64_t{box.box_columns} * box.element_bytes;
    FUCINA_CHECK(reinterpret_cast<uintptr_t>(box.data) % 16 == 0 && box.data != nullptr,
                 "tensor map: the tensor begins at ", box.data, ", which is not aligned to 16");
    FUCINA_CHECK(box.rows >= 1 && box.columns >= 1 && box.rows <= int64_t{1} << 32 &&
                     box.columns <= int64_t{1} << 32,
                 "tensor map: [", box.rows, ", ", box.columns, "], allowed are 1 to 2^32");
    FUCINA_CHECK(box.row_bytes % 16 == 0 && box.row_bytes >= box.columns * box.element_bytes &&
                     box.row_bytes < int64_t{1} << 40,
                 "tensor map: rows of ", box.columns * box.element_bytes, " bytes are ",
                 box.row_bytes, " bytes apart, which must be a multiple of 16 below 2^40");
    FUCINA_CHECK(
        box.box_rows >= 1 && box.box_rows <= 256 && box.box_columns >= 1 && box.box_columns <= 256,
        "tensor map: a box of [", box.box_rows, ", ", box.box_columns, "], allowed are 1 to 256");
    FUCINA_CHECK(width % 16 == 0, "tensor map: a box row of ", width,
                 " bytes, which must be a multiple of 16");
    FUCINA_CHECK(box.swizzle == Swizzle::none || width <= static_cast<int>(box.swizzle),
                 "tensor map: a box row of ", width, " bytes is wider than its swizzle of ",
                 static_cast<int>(box.swizzle));
}

#if defined(__CUDACC__)
inline TensorMap encode_tensor_map(const TensorBox& box) {
    void* encode = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode,
                                                                12000, cudaEnableDefault, &found);
    FUCINA_CHECK(status == cudaSuccess && encode != nullptr,
                 "tensor map: this driver has no cuTensorMapEncodeTiled; 525 or newer has it");
    const auto type = box.element_bytes == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                      : box.element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    const auto swizzle = box.swizzle == Swizzle::none      ? CU_TENSOR_MAP_SWIZZLE_NONE
                         : box.swizzle == Swizzle::bytes32 ? CU_TENSOR_MAP_SWIZZLE_32B
                         : box.swizzle == Swizzle::bytes64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                           : CU_TENSOR_MAP_SWIZZLE_128B;
    const cuuint64_t sizes[] = {static_cast<cuuint64_t>(box.columns),
                                static_cast<cuuint64_t>(box.rows)};
    const cuuint64_t strides[] = {static_cast<cuuint64_t>(box.row_bytes)};
    const cuuint32_t extent[] = {static_cast<cuuint32_t>(box.box_columns),
                                 static_cast<cuuint32_t>(box.box_rows)};
    const cuuint32_t steps[] = {1, 1};
    TensorMap map;
    const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
        &map, type, 2, const_cast<void*>(box.data), sizes, strides, extent, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    FUCINA_CHECK(result == CUDA_SUCCESS, "tensor map: the driver refuses it with ",
                 static_cast<int>(result));
    return map;
}
#endif

inline TensorMap make_tensor_map(const TensorBox& box) {
    check_tensor_box(box);
#if defined(__CUDACC__)
    return encode_tensor_map(box);
#else
    return {static_cast<char*>(const_cast<void*>(box.data)),
            box.columns,
            box.rows,
            box.row_bytes,
            box.box_columns,
            box.box_rows,
            box.element_bytes,
            static_cast<int>(box.swizzle)};
#endif
}

}  // namespace fucina::cuda
