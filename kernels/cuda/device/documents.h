// Packed documents cut into tiles of rows, none of which has rows of two documents. Bounds lie on
// the device, so a grid has a place for every tile that there might be: document d's are those from
// bounds[d] / kRows + d, at least as many as it needs.
#pragma once
#include "kernels/cuda/device/platform.h"
#include "kernels/tensor.h"

namespace fucina::cuda {

struct Documents {
    const int64_t* bounds = nullptr;  // [count + 1]
    int64_t count = 0;

    explicit Documents(const Tensor& cu_seqlens)
        : bounds(cu_seqlens.data<int64_t>()), count(cu_seqlens.size() - 1) {}

    template <int kRows>
    unsigned places(int64_t rows) const {
        return static_cast<unsigned>(rows / kRows + count);
    }
};

// Successive rows of one head.
struct RowRange {
    int64_t first = 0, head = 0;
    int count = 0;
};

struct DocumentTile {
    int64_t begin = 0, rows = 0;  // of the document
    int64_t first = 0;  // row of it where the tile begins; there is none if not below rows

    // Rows [from, from + most) of the document, as far as it goes.
    __device__ __forceinline__ RowRange range(int64_t from, int most, int64_t head) const {
        const int64_t left = rows - from;
        return {.first = begin + from,
                .head = head,
                .count = left < most ? static_cast<int>(left) : most};
    }
};

template <int kRows>
__device__ __forceinline__ DocumentTile tile_at(const Documents& documents, int64_t place) {
    int64_t document = 0, end = documents.count;
    while (end - document > 1) {
        const int64_t middle = (document + end) / 2;
        (documents.bounds[middle] / kRows + middle <= place ? document : end) = middle;
    }
    const int64_t begin = documents.bounds[document];
    return {.begin = begin,
            .rows = documents.bounds[document + 1] - begin,
            .first = (place - begin / kRows - document) * kRows};
}

}  // namespace fucina::cuda
