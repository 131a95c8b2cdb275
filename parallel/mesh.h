// Mesh: the ranks of a run by named axes, and the communicators along them.
//
// A rank has an index along each of three axes: the stages of the pipeline hold layers after
// layers, data-parallel ranks share the batch, and tensor-parallel ranks, neighbours, share the
// matrices. Experts cut the ranks of a stage another way (parallel folding, arXiv 2504.14960):
// neighbours in groups of `expert` share the experts out among themselves, and ranks of the same
// place in their groups, `expert_data` of them, hold the same experts.
#pragma once
#include <memory>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/layout.h"

namespace fucina {

// Sizes of the axes.
struct MeshShape {
    int pipeline = 1, data = 1, tensor = 1;
    int expert = 1;  // a multiple of tensor that divides data * tensor

    int stage_ranks() const { return data * tensor; }
    int ranks() const { return pipeline * stage_ranks(); }
    int expert_data() const { return stage_ranks() / expert; }
    int pipeline_index(int rank) const { return rank / stage_ranks(); }
    int data_index(int rank) const { return rank % stage_ranks() / tensor; }
    int tensor_index(int rank) const { return rank % tensor; }
    int expert_index(int rank) const { return rank % stage_ranks() % expert; }
    int expert_group(int rank) const { return rank % stage_ranks() / expert; }
    // Data indices whose ranks share the experts out with each other: group g has those from g
    // times so many on.
    int expert_sources() const { return expert / tensor; }
    // The ranks that hold the same as `rank`, by their index along data or expert_data.
    int data_peer(int rank, int index) const {
        return (pipeline_index(rank) * data + index) * tensor + tensor_index(rank);
    }
    int expert_data_peer(int rank, int group) const {
        return pipeline_index(rank) * stage_ranks() + group * expert + expert_index(rank);
    }
    // Of the ranks that hold the same part of a tensor, whether `rank` is the first: sums over a
    // model's elements are theirs.
    bool is_first_holder(const Layout& layout, int rank) const {
        if (pipeline_index(rank) != layout.stage) return false;
        if (layout.expert >= 0) return expert_group(rank) == 0;
        return data_index(rank) == 0 && (layout.tensor >= 0 || tensor_index(rank) == 0);
    }
};

// What a rank holds of a tensor: an empty box where it is of other stages. Dimensions need not
// divide by the axis that cuts them.
Box box_of(std::span<const int64_t> shape, const Layout& layout, const MeshShape& mesh, int rank);

// The part of its box that a rank updates where optimizers are shared out among the ranks that hold
// the same: whole experts or vectors, else stripes of kStripe rows of the matrix; a row's squares
// are summed in one order. May be empty.
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
    const Exec& exec() const { return world_.exec(); }
    // The ranks that differ from this one in that index alone.
    Communicator& pipeline() const { return *pipeline_; }
    Communicator& data() const { return *data_; }
    Communicator& tensor() const { return *tensor_; }
    Communicator& expert() const { return *expert_; }
    Communicator& expert_data() const { return *expert_data_; }
    // Of the ranks that hold the same of a tensor: along each, they are neighbours.
    std::vector<Communicator*> holders(const Layout& layout) const {
        if (layout.expert >= 0) return {expert_data_.get()};
        if (layout.tensor >= 0) return {data_.get()};
        return {data_.get(), tensor_.get()};
    }

  private:
    MeshShape shape_;
    Communicator& world_;
    std::unique_ptr<Communicator> pipeline_, data_, tensor_, expert_, expert_data_;
};

}  // namespace fucina
