// What a kernel sees of a Tensor: a pointer and a row stride.
#pragma once
#include "kernels/cuda/device/platform.h"
#include "kernels/tensor.h"

namespace fucina::cuda {

template <class T>
struct HostElement;
template <>
struct HostElement<float> {
    using type = float;
};
template <>
struct HostElement<__nv_bfloat16> {
    using type = bfloat16;
};

template <class T>
struct Matrix {
    T* data = nullptr;
    int64_t stride = 0;  // elements between rows

    Matrix() = default;
    Matrix(const Tensor& tensor) {  // NOLINT: a tensor is passed where a kernel wants a matrix
        if (!tensor.defined()) return;
        using Host = typename HostElement<std::remove_const_t<T>>::type;
        data = reinterpret_cast<T*>(tensor.data<Host>());
        stride = tensor.row_stride();
    }
    __device__ __forceinline__ T* row(int64_t i) const { return data + i * stride; }
};

inline bool same_form(const Tensor& a, const Tensor& b) {
    return a.dtype() == b.dtype() && a.rows() == b.rows() && a.row_size() == b.row_size();
}

inline bool aligned(const void* pointer, size_t bytes) {
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Whether rows of `width` elements can be read kPack at a time, in 16 aligned bytes, in all of
// these.
template <int kPack, class... Rows>
bool packs(int64_t width, const Rows&... rows) {
    const auto fits = [](const auto& x) { return aligned(x.data, 16) && x.stride % kPack == 0; };
    return width % kPack == 0 && (fits(rows) && ...);
}

}  // namespace fucina::cuda
