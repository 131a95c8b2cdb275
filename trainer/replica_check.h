// Whether all data-parallel ranks still hold the same weights. Every rank computes the same update
// from the same sums, so a difference is a defect of ours or of a machine: a bit that flipped in
// memory, a core that computes wrongly. It would go into checkpoints unseen.
#pragma once
#include <span>
#include <string>

#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace fucina {

// Collective. "" if every parameter has the same bits on all ranks (by xxh3), else the odd ranks,
// their hosts and the first tensor that differs, the same text on all ranks. Odd are the ranks
// outside the majority; where there is none, all are named. Reads all weights once.
std::string replica_difference(const Mesh& mesh, std::span<Parameter* const> parameters);

}  // namespace fucina
