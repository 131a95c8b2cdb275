#include "kernels/tensor.h"

#include <algorithm>
#include <cstring>

#include "kernels/arena.h"
#include "kernels/exec.h"

namespace fucina {

Tensor Tensor::empty(std::span<const int64_t> shape, DType type) {
    return empty(shape, type, Arena::process());
}

Tensor Tensor::empty(std::span<const int64_t> shape, DType type, Arena& arena) {
    FUCINA_CHECK(shape.size() <= kMaxRank, "a tensor has at most ", kMaxRank, " dimensions");
    Tensor t;
    t.dtype_ = type;
    t.rank_ = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), t.shape_.begin());
    for (const int64_t d : shape) FUCINA_CHECK(d >= 0, "negative dimension ", d);
    t.row_stride_ = t.rank_ == 0 ? 1 : t.shape_product(1);
    t.device_ = arena.device();
    t.storage_ = arena.allocate(t.bytes());
    t.data_ = t.storage_.get();
    return t;
}

Tensor Tensor::zeros(std::initializer_list<int64_t> shape, DType type) {
    Tensor t = empty(shape, type);
    t.zero();
    return t;
}

int64_t Tensor::shape_product(int from) const {
    int64_t product = 1;
    for (int i = from; i < rank_; ++i) product *= shape_[static_cast<size_t>(i)];
    return product;
}

int64_t Tensor::size() const {
    return shape_product(0);
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
    FUCINA_CHECK(rank_ >= 1 && begin >= 0 && begin <= end && end <= dim(0), "rows [", begin, ", ",
                 end, ") of ", describe());
    Tensor t = *this;
    t.shape_[0] = end - begin;
    t.data_ += begin * row_stride_ * size_of(dtype_);
    return t;
}

Tensor Tensor::columns(int64_t begin, int64_t end) const {
    FUCINA_CHECK(rank_ == 2 && begin >= 0 && begin <= end && end <= dim(1), "columns [", begin,
                 ", ", end, ") of ", describe());
    Tensor t = *this;
    t.shape_[1] = end - begin;
    t.data_ += begin * size_of(dtype_);
    return t;
}

Tensor Tensor::view(std::initializer_list<int64_t> shape) const {
    FUCINA_CHECK(contiguous() && shape.size() <= kMaxRank, "view of a strided ", describe());
    Tensor t = *this;
    t.rank_ = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), t.shape_.begin());
    t.row_stride_ = t.rank_ == 0 ? 1 : t.shape_product(1);
    FUCINA_CHECK(t.size() == size(), "view ", t.describe(), " of ", describe());
    return t;
}

Tensor Tensor::as(DType type) const {
    FUCINA_CHECK(contiguous() && bytes() % size_of(type) == 0, describe(), " as ", name_of(type));
    Tensor t = *this;
    t.dtype_ = type;
    t.rank_ = 1;
    t.shape_[0] = bytes() / size_of(type);
    t.row_stride_ = 1;
    return t;
}

Tensor Tensor::clone() const {
    Tensor copy = empty(shape(), dtype_);
    kHost.copy(*this, copy);
    return copy;
}

void Tensor::zero() const {
    if (size() == 0) return;
    if (contiguous()) {
        std::memset(raw(), 0, static_cast<size_t>(bytes()));
        return;
    }
    const auto row_bytes = static_cast<size_t>(row_size() * size_of(dtype_));
    for (int64_t i = 0; i < dim(0); ++i)
        std::memset(raw() + i * row_stride_ * size_of(dtype_), 0, row_bytes);
}

std::string Tensor::describe() const {
    return concat(name_of(dtype_), " ", shape_text(shape()));
}

std::string shape_text(std::span<const int64_t> shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

}  // namespace fucina
