// GradAccumulator: the gradients of several passes, added along the grain tree.
#pragma once
#include <span>
#include <vector>

#include "parallel/parameter.h"

namespace fucina {

// Every trained gradient, use by use, in the order of the parameters. Allocates what is missing.
std::vector<Tensor> trained_grads(std::span<Parameter* const> parameters);

class GradAccumulator {
  public:
    explicit GradAccumulator(std::span<Parameter* const> parameters) : parameters_(parameters) {}

    // Takes the node sum that a pass left in the gradients (the next pass gets other buffers) and
    // adds the newest two partial sums `merges` times.
    void add_pass(int merges);
    // Puts the one remaining sum back into the gradients; nothing if there was no pass.
    void finish();

  private:
    std::span<Parameter* const> parameters_;
    std::vector<std::vector<Tensor>> sums_;  // [held nodes][uses]
};

}  // namespace fucina
