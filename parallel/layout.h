// Where the elements of a tensor are: boxes of it, and how the axes of a mesh cut it into them.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace fucina {

// By axis of the mesh, the dimension that it cuts; -1: all ranks of the axis hold the same. At most
// one axis cuts a tensor. Of the pipeline's stages one or two hold it.
struct Layout {
    int expert = -1;
    int tensor = -1;
    int stage = 0, other_stage = 0;  // indices along pipeline, by rank

    bool on_stage(int index) const { return index == stage || index == other_stage; }
};

// A part of a tensor, by dimension.
struct Box {
    std::vector<int64_t> offset, extent;

    int64_t size() const;  // elements
    bool operator==(const Box&) const = default;
};

Box whole_box(std::span<const int64_t> shape);
// The part that two boxes of a tensor share, or nothing.
std::optional<Box> intersection(const Box& a, const Box& b);

// body(first, local, count) for every run of elements of the box that are neighbours in the tensor:
// the first of them is number `first` of the row-major tensor, and number `local` of the box.
template <class Body>
void for_each_run(std::span<const int64_t> shape, const Box& box, const Body& body) {
    // Dimensions from `inner` on are one run.
    size_t inner = shape.size();
    int64_t count = 1;
    while (inner > 0) {
        --inner;
        count *= box.extent[inner];
        if (box.extent[inner] != shape[inner]) break;
    }
    std::vector<int64_t> index(box.offset.begin(), box.offset.end());
    for (int64_t local = 0; local < box.size(); local += count) {
        int64_t first = 0;
        for (size_t d = 0; d < shape.size(); ++d) first = first * shape[d] + index[d];
        body(first, local, count);
        for (size_t d = inner; d-- > 0;) {
            if (++index[d] < box.offset[d] + box.extent[d]) break;
            index[d] = box.offset[d];
        }
    }
}

// body(element of `from`, element of `to`, how many) for every run of elements that the boxes
// share, each box lying row-major by itself.
using SharedRun = std::function<void(int64_t from, int64_t to, int64_t count)>;
void for_each_shared_run(const Box& from_box, const Box& to_box, const SharedRun& body);

// Elements of `element` bytes: the part that the boxes share, each lying row-major at its pointer.
void copy_shared(const Box& from_box, const std::byte* from, const Box& to_box, std::byte* to,
                 int64_t element);

}  // namespace fucina
