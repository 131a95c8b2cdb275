// The order of sums inside products (exact.products) that a job computes in.
#pragma once
#include <string>

#include "configs/recipe.pb.h"
#include "kernels/runtime.h"
#include "parallel/communicator.h"

namespace fucina {

// Collective. The fastest order that all ranks have.
ProductOrder fastest_products(Communicator& communicator);

// Collective. Whether all ranks have it.
bool all_offer(Communicator& communicator, ProductOrder order);

// Collective. What exact.products of a recipe means in this job: "auto" becomes the fastest that
// all ranks have; fails (exit 2) where a rank lacks the named order, with what to do instead. Fast
// numerics and fp32 operands need none: the recipe stays as it is.
void resolve_products(Communicator& communicator, Recipe& recipe,
                      const std::string& what_to_do_instead);

// Collective. For a model that is only evaluated: the order that its run had, where all ranks have
// it, else the fastest. run: null for a model that comes from elsewhere.
ProductOrder evaluation_products(Communicator& communicator, const Recipe* run);

// exact.products as a run had it; before there was the key it was "amx".
std::string stored_products(const Recipe& run);

}  // namespace fucina
