// Exec: where an op runs. Every op takes one first; its tensors lie in that device's memory, and on
// CUDA it is put on the stream, so that it may not have run when the call returns. A stream runs
// what is put on it in order.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "kernels/tensor.h"

struct CUstream_st;

namespace fucina {

using Stream = CUstream_st*;  // = cudaStream_t; null is the default stream

// Whether the program has kernels/cuda, for a GPU or for the SIMT model.
#if defined(FUCINA_CUDA)
constexpr bool kWithCuda = true;
#else
constexpr bool kWithCuda = false;
#endif

struct Exec {
    Device device = Device::cpu;
    Stream stream = nullptr;
    Arena* arena = nullptr;  // null: the host's, Arena::process()

    bool on_host() const { return device == Device::cpu; }
    // Uninitialised, from the arena.
    Tensor empty(std::span<const int64_t> shape, DType type) const;
    Tensor empty(std::initializer_list<int64_t> shape, DType type) const {
        return empty(std::span<const int64_t>(shape.begin(), shape.size()), type);
    }
    Tensor zeros(std::initializer_list<int64_t> shape, DType type) const;
    Tensor clone(const Tensor& x) const;  // contiguous
    // Rows of the same type and shape, at any strides, on either device. What leaves the device for
    // the host's memory is there when this returns.
    void copy(const Tensor& from, const Tensor& to) const;
    void copy_bytes(std::span<const std::byte> from, std::span<std::byte> to) const;
    void zero(const Tensor& x) const;
    void wait() const;  // until all that is on the stream has run
};

inline constexpr Exec kHost{};

// Runs FUNCTION of the back end that exec names: cpu::f(arguments) or cuda::f(exec, arguments).
#define FUCINA_RUN(exec, function, ...)                                                     \
    do {                                                                                    \
        if constexpr (kWithCuda)                                                            \
            if (!(exec).on_host()) return cuda::function((exec)__VA_OPT__(, ) __VA_ARGS__); \
        return cpu::function(__VA_ARGS__);                                                  \
    } while (false)

// Values of the host as a tensor [n] for kernels.
template <class T>
Tensor tensor_of(const Exec& exec, std::span<const T> values) {
    const Tensor x = Tensor::empty({static_cast<int64_t>(values.size())}, dtype_of<T>());
    std::copy(values.begin(), values.end(), x.template data<T>());
    return exec.on_host() ? x : exec.clone(x);
}
template <class T>
Tensor tensor_of(const Exec& exec, const std::vector<T>& values) {
    return tensor_of(exec, std::span<const T>(values));
}

// x itself, or a copy of it in the host's memory, made once the stream has come there.
Tensor on_host(const Exec& exec, const Tensor& x);

// Runs body(values) on x in the host's memory; x has what it leaves there.
template <class Body>
void edit_on_host(const Exec& exec, const Tensor& x, const Body& body) {
    const Tensor values = on_host(exec, x);
    body(values);
    if (!exec.on_host()) exec.copy(values, x);
}

// A tensor's values for code that is no kernel: the one way in which model, trainer and parallel
// see elements. x is contiguous.
template <class T>
class HostValues {
  public:
    HostValues(const Exec& exec, const Tensor& x) : tensor_(fucina::on_host(exec, x)) {
        FUCINA_CHECK(x.contiguous(), "values of a strided ", x.describe());
    }
    size_t size() const { return static_cast<size_t>(tensor_.size()); }
    std::span<T> span() const& { return {tensor_.data<T>(), size()}; }
    std::span<T> span() && = delete;  // of a device's tensor the values end with this
    T& operator[](size_t i) const { return tensor_.data<T>()[i]; }

  private:
    Tensor tensor_;
};

}  // namespace fucina
