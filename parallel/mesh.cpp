#include "parallel/mesh.h"

#include <algorithm>

#include "kernels/error.h"

namespace fucina {

Box box_of(std::span<const int64_t> shape, const Layout& layout, const MeshShape& mesh, int rank) {
    Box box = whole_box(shape);
    if (layout.expert >= 0) {
        const auto dim = static_cast<size_t>(layout.expert);
        const int64_t index = mesh.expert_index(rank), size = shape[dim];
        box.offset[dim] = size * index / mesh.expert;
        box.extent[dim] = size * (index + 1) / mesh.expert - box.offset[dim];
    }
    return box;
}

Box owned_box(std::span<const int64_t> shape, const Layout& layout, const MeshShape& mesh,
              int rank) {
    Box box = box_of(shape, layout, mesh, rank);
    const bool experts = layout.expert >= 0;
    // Of a fused [2, N, K] every rank has rows of both.
    const size_t dim = experts ? static_cast<size_t>(layout.expert) : shape.size() == 3 ? 1 : 0;
    const int64_t ranks = experts ? mesh.expert_data() : mesh.data;
    const int64_t index = experts ? mesh.expert_group(rank) : rank;
    const int64_t unit = experts ? 1 : kStripe, size = box.extent[dim];
    const int64_t units = (size + unit - 1) / unit;
    const int64_t begin = std::min(units * index / ranks * unit, size);
    const int64_t end = std::min(units * (index + 1) / ranks * unit, size);
    box.offset[dim] += begin;
    box.extent[dim] = end - begin;
    return box;
}

Mesh::Mesh(Communicator& world, const MeshShape& shape) : shape_(shape), world_(world) {
    FUCINA_CHECK(
        world.size() == shape.ranks() && shape.expert >= 1 && shape.data % shape.expert == 0,
        "a mesh of data ", shape.data, " and expert ", shape.expert, " on ", world.size(),
        " ranks");
    expert_ = world.split(shape.expert_group(world.rank()));
    expert_data_ = world.split(shape.expert_index(world.rank()));
}

}  // namespace fucina
