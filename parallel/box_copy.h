// copy_shared of tensors. Apart, so that what reads boxes out of files needs no tensors.
#pragma once
#include "kernels/exec.h"
#include "parallel/layout.h"

namespace fucina {

inline void copy_shared(const Exec& exec, const Box& from_box, const Tensor& from,
                        const Box& to_box, const Tensor& to) {
    FUCINA_CHECK(
        from.dtype() == to.dtype() && from.size() >= from_box.size() && to.size() >= to_box.size(),
        "boxes of ", from_box.size(), " and ", to_box.size(), " elements of ", from.describe(),
        " and ", to.describe());
    const Tensor source = from.flat(), target = to.flat();
    for_each_shared_run(from_box, to_box, [&](int64_t begin, int64_t to_begin, int64_t count) {
        exec.copy(source.slice(begin, begin + count), target.slice(to_begin, to_begin + count));
    });
}

}  // namespace fucina
