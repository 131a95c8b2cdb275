#include "parallel/mesh.h"

#include <algorithm>

#include "kernels/error.h"

namespace fucina {

Box box_of(std::span<const int64_t> shape, const Layout& layout, const MeshShape& mesh, int rank) {
    Box box = whole_box(shape);
    const auto cut = [&](int dimension, int64_t ranks, int64_t index) {
        if (dimension < 0) return;
        const auto dim = static_cast<size_t>(dimension);
        box.offset[dim] = shape[dim] * index / ranks;
        box.extent[dim] = shape[dim] * (index + 1) / ranks - box.offset[dim];
    };
    cut(layout.expert, mesh.expert, mesh.expert_index(rank));
    cut(layout.tensor, mesh.tensor, mesh.tensor_index(rank));
    if (!layout.on_stage(mesh.pipeline_index(rank))) std::ranges::fill(box.extent, 0);
    return box;
}

Box owned_box(std::span<const int64_t> shape, const Layout& layout, const MeshShape& mesh,
              int rank) {
    Box box = box_of(shape, layout, mesh, rank);
    const bool experts = layout.expert >= 0;
    // Of a fused [2, N, K] every rank has rows of both.
    const size_t dim = experts ? static_cast<size_t>(layout.expert) : shape.size() == 3 ? 1 : 0;
    const int64_t ranks = experts ? mesh.expert_data() : mesh.data;
    const int64_t index = experts ? mesh.expert_group(rank) : mesh.data_index(rank);
    const int64_t size = box.extent[dim];
    const int64_t unit = experts ? 1 : shape.size() == 1 ? std::max<int64_t>(size, 1) : kStripe;
    const int64_t units = (size + unit - 1) / unit;
    const int64_t begin = std::min(units * index / ranks * unit, size);
    const int64_t end = std::min(units * (index + 1) / ranks * unit, size);
    box.offset[dim] += begin;
    box.extent[dim] = end - begin;
    return box;
}

Mesh::Mesh(Communicator& world, const MeshShape& shape) : shape_(shape), world_(world) {
    FUCINA_CHECK(world.size() == shape.ranks() && shape.expert % shape.tensor == 0 &&
                     shape.stage_ranks() % shape.expert == 0,
                 "a mesh of pipeline ", shape.pipeline, ", data ", shape.data, ", tensor ",
                 shape.tensor, " and expert ", shape.expert, " on ", world.size(), " ranks");
    const int rank = world.rank(), stage = shape.pipeline_index(rank);
    pipeline_ = world.split(rank % shape.stage_ranks());
    data_ = world.split(stage * shape.tensor + shape.tensor_index(rank));
    tensor_ = world.split(stage * shape.data + shape.data_index(rank));
    expert_ = world.split(stage * shape.expert_data() + shape.expert_group(rank));
    expert_data_ = world.split(stage * shape.expert + shape.expert_index(rank));
}

}  // namespace fucina
