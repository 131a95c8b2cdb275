// How a rank's share of a batch is cut into passes, and what memory that takes.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "configs/recipe.pb.h"
#include "model/model.h"
#include "parallel/batch_plan.h"

namespace fucina {

struct MemoryPlan {
    std::vector<Pass> passes;
    int64_t pass_grains = 0;  // a pass has at most so many
    // Bytes, each the most at any moment: by Arena's purposes, then "program", which is what the
    // process holds besides (code, libraries, data, tables) and already holds when it plans.
    std::vector<std::pair<std::string, int64_t>> predicted;
    // More activations where routing is so uneven that a rank's experts get as many rows as they
    // can at a time (parallel.dispatch_rows); 0: all experts are here.
    int64_t uneven = 0;
    int64_t snapshot = 0;  // more, at most, while a save is written (checkpoint.snapshot)
    int64_t shared = 0;    // gradients and activations have their most at different moments,
                           // less the gaps that they leave between each other
    bool has(const std::string& purpose) const;
    int64_t total() const;  // of the process, at its widest moment
};

// Passes hold at most train.micro_batch sequences, or more where that is predicted to take no more
// memory: fewer passes keep fewer partial sums of gradients. Merging changes no number in exact
// numerics.
//
// pass_grains: 0, or what others chose. sample_tokens: of the sample of that number, by which the
// passes of the first steps are measured; empty: all sequences are full.
MemoryPlan plan_memory(const Recipe& recipe, Model& model, const BatchPlan& batch, int index,
                       const std::function<int64_t(int64_t)>& sample_tokens = {},
                       int64_t pass_grains = 0);

// Predicted beside measured, a line a purpose: Arena::table(), and of the process what the system
// says, "in all" its resident set at the most.
std::vector<std::string> memory_table(const MemoryPlan& plan, const Exec& exec, bool measured);

}  // namespace fucina
