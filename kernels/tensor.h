// Tensor: a value handle on reference-counted storage. Copies share the data; clone() copies it.
// Elements are contiguous but for one row stride (the distance between indices of dimension 0), so
// that column ranges of a matrix (q's rope part, latent | rope, gate | up) are views. Up to five
// dimensions.
#pragma once
#include <array>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "kernels/dtype.h"
#include "kernels/error.h"

namespace fucina {

std::string shape_text(std::span<const int64_t> shape);  // "[64, 512]", for messages

enum class Device : uint8_t { cpu, cuda };

class Arena;

class Tensor {
  public:
    static constexpr int kMaxRank = 5;

    Tensor() = default;  // no storage; defined() is false
    // Uninitialised, 64-byte aligned, in the host's memory, or in that of `arena` (kernels/exec.h).
    static Tensor empty(std::span<const int64_t> shape, DType type, Arena& arena);
    static Tensor empty(std::span<const int64_t> shape, DType type);
    static Tensor empty(std::initializer_list<int64_t> shape, DType type) {
        return empty(std::span<const int64_t>(shape.begin(), shape.size()), type);
    }
    static Tensor zeros(std::initializer_list<int64_t> shape, DType type);

    bool defined() const { return storage_ != nullptr; }
    Device device() const { return device_; }
    DType dtype() const { return dtype_; }
    int rank() const { return rank_; }
    int64_t dim(int i) const { return shape_[static_cast<size_t>(i)]; }
    std::span<const int64_t> shape() const { return {shape_.data(), static_cast<size_t>(rank_)}; }
    int64_t size() const;                    // number of elements
    int64_t rows() const { return dim(0); }  // dimension 0
    int64_t row_size() const { return dim(0) == 0 ? shape_product(1) : size() / dim(0); }
    int64_t row_stride() const { return row_stride_; }  // elements between consecutive rows
    bool contiguous() const { return dim(0) <= 1 || row_stride_ == row_size(); }
    int64_t bytes() const { return size() * size_of(dtype_); }

    template <class T>
    T* data() const {
        FUCINA_CHECK(dtype_of<T>() == dtype_, "tensor holds ", name_of(dtype_));
        return reinterpret_cast<T*>(raw());
    }
    template <class T>
    T* data_or_null() const {
        return defined() ? data<T>() : nullptr;
    }
    template <class T>
    T* row(int64_t i) const {
        return data<T>() + i * row_stride_;
    }
    std::byte* raw() const { return data_; }
    // All of it, for what moves bytes: ranks and files. Contiguous.
    std::span<std::byte> memory() const {
        FUCINA_CHECK(contiguous(), "memory of a strided ", describe());
        return {data_, static_cast<size_t>(bytes())};
    }

    Tensor slice(int64_t begin, int64_t end) const;           // rows [begin, end) of dimension 0
    Tensor columns(int64_t begin, int64_t end) const;         // of a matrix
    Tensor view(std::initializer_list<int64_t> shape) const;  // same elements; needs contiguous()
    Tensor as(DType type) const;  // the same memory, [n] of another type; needs contiguous()
    Tensor flat() const { return view({size()}); }
    // On the host: a contiguous copy, zeros. Exec has both for any device.
    Tensor clone() const;
    void zero() const;
    std::string describe() const;  // "BF16 [64, 512]", for messages

  private:
    int64_t shape_product(int from) const;

    std::shared_ptr<std::byte> storage_;
    std::byte* data_ = nullptr;
    DType dtype_ = DType::f32;
    Device device_ = Device::cpu;
    int rank_ = 0;
    std::array<int64_t, kMaxRank> shape_{};
    int64_t row_stride_ = 0;
};

}  // namespace fucina
