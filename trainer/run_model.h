// The model and the optimizer that a recipe asks for.
#pragma once
#include <memory>

#include "configs/recipe.pb.h"
#include "model/model.h"
#include "trainer/optimizer.h"

namespace fucina {

// What `mesh`, which must outlive it, says of this rank; without weights. exact.chunks becomes a
// number in the recipe; exit 2, with the legal ones, where the model cannot be cut so.
std::unique_ptr<Model> make_model(const ModelSpec& spec, const Mesh& mesh, Recipe& recipe);

// Ranks that share matrices have heads, widths and vocabulary evenly; exit 2, with the legal
// numbers of ranks, where they cannot. name: what the user called it.
void check_tensor(const ModelSpec& spec, int64_t ranks, const std::string& name);

// Every stage of a pipeline has a layer; exit 2 where there are not as many.
void check_pipeline(const ModelSpec& spec, int64_t stages, const std::string& name);

std::unique_ptr<Optimizer> make_optimizer(Model& model, const Mesh& mesh, const Recipe& recipe);

}  // namespace fucina
