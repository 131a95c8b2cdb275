#include "kernels/exec.h"

#include <algorithm>
#include <cstring>

#include "kernels/arena.h"
#include "kernels/cuda/runtime.h"

namespace fucina {
namespace {

// Rows of one length at two strides, in bytes.
struct Rows {
    std::byte* at;
    int64_t stride;

    explicit Rows(const Tensor& x) : at(x.raw()), stride(x.row_stride() * size_of(x.dtype())) {}
};

int64_t row_bytes(const Tensor& x) {
    return x.row_size() * size_of(x.dtype());
}

void copy_on_host(const Tensor& from, const Tensor& to) {
    if (from.contiguous() && to.contiguous()) {
        std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.bytes()));
        return;
    }
    const Rows source(from), target(to);
    for (int64_t i = 0; i < from.rows(); ++i)
        std::memcpy(target.at + i * target.stride, source.at + i * source.stride,
                    static_cast<size_t>(row_bytes(from)));
}

}  // namespace

Tensor Exec::empty(std::span<const int64_t> shape, DType type) const {
    return Tensor::empty(shape, type, arena != nullptr ? *arena : Arena::process());
}

Tensor Exec::zeros(std::initializer_list<int64_t> shape, DType type) const {
    const Tensor x = empty(shape, type);
    zero(x);
    return x;
}

Tensor Exec::clone(const Tensor& x) const {
    const Tensor copied = empty(x.shape(), x.dtype());
    copy(x, copied);
    return copied;
}

void Exec::copy(const Tensor& from, const Tensor& to) const {
    FUCINA_CHECK(from.dtype() == to.dtype() && std::ranges::equal(from.shape(), to.shape()),
                 "rows of ", from.describe(), " to ", to.describe());
    if (from.size() == 0) return;
    if (from.device() == Device::cpu && to.device() == Device::cpu) return copy_on_host(from, to);
    if constexpr (kWithCuda) {
        const Rows source(from), target(to);
        const bool flat = from.contiguous() && to.contiguous();
        cuda::copy_rows({.from = source.at,
                         .from_stride = flat ? from.bytes() : source.stride,
                         .to = target.at,
                         .to_stride = flat ? from.bytes() : target.stride,
                         .row_bytes = flat ? from.bytes() : row_bytes(from),
                         .rows = flat ? 1 : from.rows()},
                        stream);
        if (to.device() == Device::cpu) wait();
    }
}

void Exec::copy_bytes(std::span<const std::byte> from, std::span<std::byte> to) const {
    const auto bytes = static_cast<int64_t>(from.size());
    if (bytes == 0) return;
    if (on_host()) {
        std::memcpy(to.data(), from.data(), from.size());
        return;
    }
    if constexpr (kWithCuda)
        cuda::copy_rows({.from = from.data(),
                         .from_stride = bytes,
                         .to = to.data(),
                         .to_stride = bytes,
                         .row_bytes = bytes,
                         .rows = 1},
                        stream);
    wait();
}

void Exec::zero(const Tensor& x) const {
    if (x.device() == Device::cpu) return x.zero();
    if constexpr (kWithCuda) {
        if (x.size() == 0) return;
        const Rows rows(x);
        const bool flat = x.contiguous();
        cuda::zero_rows(rows.at, flat ? x.bytes() : rows.stride, flat ? x.bytes() : row_bytes(x),
                        flat ? 1 : x.rows(), stream);
    }
}

void Exec::wait() const {
    if constexpr (kWithCuda)
        if (!on_host()) cuda::wait(stream);
}

Tensor on_host(const Exec& exec, const Tensor& x) {
    if (exec.on_host()) return x;
    const Tensor copied = Tensor::empty(x.shape(), x.dtype());
    exec.copy(x, copied);
    return copied;
}

}  // namespace fucina
