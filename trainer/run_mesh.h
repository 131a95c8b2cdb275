// The mesh that a recipe asks for.
#pragma once
#include <memory>

#include "configs/recipe.pb.h"
#include "parallel/mesh.h"

namespace fucina {

// Collective over all ranks, and before anything else is done. Exit 2 where the layout is
// impossible, with the legal choices.
std::unique_ptr<Mesh> make_mesh(Communicator& world, const Recipe& recipe);

// The same for a command that only runs a model: experts over `expert` of all ranks each, an option
// of the command line.
std::unique_ptr<Mesh> make_mesh(Communicator& world, int expert);

}  // namespace fucina
