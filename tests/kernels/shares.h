// What ranks hold of a tensor that is cut by columns, and how they add what they made of it.
#pragma once
#include <vector>

#include "kernels/optimizer.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {

// Which of how many equal shares.
struct Share {
    int64_t rank, ranks;
};

// Columns of x that a share has of each of `parts` parts.
inline Tensor columns_of(const Tensor& x, Share share, int64_t parts) {
    const int64_t width = x.row_size() / parts / share.ranks;
    const Tensor out = Tensor::empty({x.rows(), width * parts}, x.dtype());
    for (int64_t i = 0; i < x.rows(); ++i)
        for (int64_t j = 0; j < width * parts; ++j) {
            const int64_t part = j / width, column = j % width;
            set(out, i, j, get(x, i, (part * share.ranks + share.rank) * width + column));
        }
    return out;
}

inline Tensor transposed(const Tensor& x) {
    const Tensor out = Tensor::empty({x.row_size(), x.rows()}, x.dtype());
    for (int64_t i = 0; i < x.rows(); ++i)
        for (int64_t j = 0; j < x.row_size(); ++j) set(out, j, i, get(x, i, j));
    return out;
}

// (p0 + p1) + (p2 + p3), as ranks add what they exchange; rounded to `type`.
inline Tensor sum_of_ranks(std::vector<Tensor> pieces, DType type) {
    for (size_t width = 1; width < pieces.size(); width *= 2)
        for (size_t i = 0; i + width < pieces.size(); i += 2 * width)
            ops::add_in_place(kHost, pieces[i], pieces[i + width]);
    const Tensor out = Tensor::empty({pieces[0].rows(), pieces[0].row_size()}, type);
    ops::cast(kHost, pieces[0], out);
    return out;
}

}  // namespace fucina::test
