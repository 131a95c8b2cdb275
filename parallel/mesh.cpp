#include "parallel/mesh.h"

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

Mesh::Mesh(Communicator& world, const MeshShape& shape) : shape_(shape), world_(world) {
    FUCINA_CHECK(
        world.size() == shape.ranks() && shape.expert >= 1 && shape.data % shape.expert == 0,
        "a mesh of data ", shape.data, " and expert ", shape.expert, " on ", world.size(),
        " ranks");
    expert_ = world.split(shape.expert_group(world.rank()));
    expert_data_ = world.split(shape.expert_index(world.rank()));
}

}  // namespace fucina
