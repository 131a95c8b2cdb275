// Boxes of tensors: what parallel/layout.h says of bytes, of tensors.
#pragma once
#include "kernels/tensor.h"
#include "parallel/layout.h"

namespace fucina {

// The part that the boxes share, of tensors of one type, contiguous, which begin with the boxes'
// elements.
inline void copy_shared(const Box& from_box, const Tensor& from, const Box& to_box,
                        const Tensor& to) {
    FUCINA_CHECK(
        from.dtype() == to.dtype() && from.size() >= from_box.size() && to.size() >= to_box.size(),
        "boxes of ", from_box.size(), " and ", to_box.size(), " elements of ", from.describe(),
        " and ", to.describe());
    copy_shared(from_box, from.memory().data(), to_box, to.memory().data(), size_of(to.dtype()));
}

}  // namespace fucina
