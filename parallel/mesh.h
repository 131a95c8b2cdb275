// Mesh: the ranks of a run by named axes, and the communicators along them.
//
// Data-parallel ranks share the batch. The expert axis cuts the same ranks another way (parallel
// folding): neighbours in groups of `expert` share the experts out among themselves, and ranks of
// the same place in their groups, `expert_data` of them, hold the same experts.
#pragma once
#include <memory>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/layout.h"

namespace fucina {

// Sizes of the axes.
struct MeshShape {
    int data = 1;
    int expert = 1;  // divides data

    int ranks() const { return data; }
    int expert_data() const { return data / expert; }
    int expert_index(int rank) const { return rank % expert; }
    int expert_group(int rank) const { return rank / expert; }
};

// What a rank holds of a tensor. Dimensions need not divide by the axis that cuts them.
Box box_of(std::span<const int64_t> shape, const Layout& layout, const MeshShape& mesh, int rank);

// The part of its box that a rank updates where optimizers are shared out among the ranks that hold
// the same: whole experts, else stripes of kStripe rows of the matrix. May be empty.
constexpr int64_t kStripe = 32;
Box owned_box(std::span<const int64_t> shape, const Layout& layout, const MeshShape& mesh,
              int rank);

class Mesh {
  public:
    // Collective over `world`, whose size is shape.ranks() and which must outlive this.
    Mesh(Communicator& world, const MeshShape& shape);

    const MeshShape& shape() const { return shape_; }
    int rank() const { return world_.rank(); }
    Communicator& world() const { return world_; }
    Communicator& data() const { return world_; }
    Communicator& expert() const { return *expert_; }
    Communicator& expert_data() const { return *expert_data_; }

  private:
    MeshShape shape_;
    Communicator& world_;
    std::unique_ptr<Communicator> expert_, expert_data_;
};

}  // namespace fucina
