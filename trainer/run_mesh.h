// The mesh that a recipe asks for.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "configs/recipe.pb.h"
#include "parallel/mesh.h"

namespace fucina {

// Collective over all ranks, and before anything else is done. Exit 2 where the layout is
// impossible, with the legal choices.
std::unique_ptr<Mesh> make_mesh(Communicator& world, const Recipe& recipe);
// The same ranks with their tensors on that device: null of "cpu", where they are so. Fails (exit
// 2) where there is no GPU that the program can use. say: on rank 0, of ranks that share a GPU.
std::unique_ptr<Communicator> on_device(Communicator& ranks, const std::string& device,
                                        const std::function<void(const std::string&)>& say);

// The same for a command that only runs a model, by its options on the command line.
struct RunOnlyLayout {
    int64_t pipeline = 1, tensor = 1;
    int64_t expert = 0;  // 0: as many as tensor
    bool one_rank() const { return pipeline == 1 && tensor == 1 && expert <= 1; }
};
std::unique_ptr<Mesh> make_mesh(Communicator& world, const RunOnlyLayout& layout);

}  // namespace fucina
