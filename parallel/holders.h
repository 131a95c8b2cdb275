// Holders: the ranks that hold the same part of a parameter, and what each of them owns of it.
#pragma once
#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace fucina {

class Holders {
  public:
    // Of experts, or of all other parameters. The mesh must outlive this.
    Holders(const Mesh& mesh, bool experts) : mesh_(mesh), experts_(experts) {}
    Holders(const Mesh& mesh, const Parameter& parameter) : Holders(mesh, is_expert(parameter)) {}

    static bool is_expert(const Parameter& parameter) { return parameter.layout.expert >= 0; }

    Communicator& ranks() const { return experts_ ? mesh_.expert_data() : mesh_.data(); }
    int size() const { return ranks().size(); }
    int here() const { return ranks().rank(); }
    // What the rank at that place among them owns.
    Box owned(const Parameter& parameter, int place) const {
        const MeshShape& shape = mesh_.shape();
        const int rank = experts_ ? shape.expert_data_peer(mesh_.rank(), place)
                                  : shape.data_peer(mesh_.rank(), place);
        return owned_box(parameter.shape, parameter.layout, shape, rank);
    }

  private:
    const Mesh& mesh_;
    bool experts_;
};

// The ranks that hold the same master weights as this one: along each they are neighbours.
inline std::vector<Communicator*> master_holders(const Mesh& mesh, const Parameter& parameter) {
    std::vector<Communicator*> holders = mesh.holders(parameter.layout);
    if (parameter.shard.defined()) holders.erase(holders.begin());  // each owns another part
    return holders;
}

}  // namespace fucina
