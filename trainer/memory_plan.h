// How a rank's share of a batch is cut into passes, and what memory that takes.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "configs/recipe.pb.h"
#include "model/model.h"
#include "parallel/grain_plan.h"

namespace fucina {

struct MemoryPlan {
    std::vector<Pass> passes;
    std::vector<std::pair<std::string, int64_t>> predicted;  // by Arena's purposes, bytes
    int64_t total() const;
};

// Passes hold at most train.micro_batch sequences, or more where that is predicted to take no more
// memory: fewer passes keep fewer partial sums of gradients. Merging changes no number in exact
// numerics.
MemoryPlan plan_memory(const Recipe& recipe, Model& model, GrainRange own, int ranks);

// Predicted beside measured (Arena::table()), a line a purpose.
std::vector<std::string> memory_table(const MemoryPlan& plan, bool measured);

}  // namespace fucina
