// Rows of bf16 or fp32, told apart while the kernel runs (the same for all threads), and read and
// written as fp32: for kernels that memory bounds.
#pragma once
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/matrix.h"

namespace fucina::cuda {

struct FloatRows {
    void* data = nullptr;
    int64_t stride = 0;  // elements between rows
    bool bf16 = false;

    FloatRows() = default;
    FloatRows(const Tensor& tensor) {  // NOLINT: as Matrix
        if (!tensor.defined()) return;
        data = tensor.raw();
        stride = tensor.row_stride();
        bf16 = tensor.dtype() == DType::bf16;
        FUCINA_CHECK(bf16 || tensor.dtype() == DType::f32, "a kernel of ", tensor.describe());
    }

    template <int kPack>
    __device__ __forceinline__ Pack<float, kPack> load(int64_t row, int64_t column) const {
        Pack<float, kPack> out;
        if (bf16) {
            const auto in = cuda::load<kPack>(at<const __nv_bfloat16>(row, column));
            for (int i = 0; i < kPack; ++i) out.at[i] = to_float(in.at[i]);
        } else {
            constexpr int kWord = kPack < 4 ? kPack : 4;  // 16 bytes are loaded at a time
            for (int first = 0; first < kPack; first += kWord) {
                const auto in = cuda::load<kWord>(at<const float>(row, column + first));
                for (int i = 0; i < kWord; ++i) out.at[first + i] = in.at[i];
            }
        }
        return out;
    }

    template <int kPack>
    __device__ __forceinline__ void store(int64_t row, int64_t column,
                                          const Pack<float, kPack>& values) const {
        if (bf16) {
            Pack<__nv_bfloat16, kPack> out;
            for (int i = 0; i < kPack; ++i) out.at[i] = from_float<__nv_bfloat16>(values.at[i]);
            cuda::store(at<__nv_bfloat16>(row, column), out);
        } else {
            constexpr int kWord = kPack < 4 ? kPack : 4;
            for (int first = 0; first < kPack; first += kWord) {
                Pack<float, kWord> out;
                for (int i = 0; i < kWord; ++i) out.at[i] = values.at[first + i];
                cuda::store(at<float>(row, column + first), out);
            }
        }
    }

    // As a store and a load would leave it.
    __device__ __forceinline__ float rounded(float value) const {
        return bf16 ? to_float(from_float<__nv_bfloat16>(value)) : value;
    }

  private:
    template <class T>
    __device__ __forceinline__ T* at(int64_t row, int64_t column) const {
        return static_cast<T*>(data) + row * stride + column;
    }
};

constexpr int kFloatPack = 8;  // elements read at a time, where packs<kFloatPack> says so

}  // namespace fucina::cuda
