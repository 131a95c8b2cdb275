// GradAccumulator: the gradients of several passes, added along the grain tree.
#pragma once
#include <span>
#include <unordered_map>
#include <vector>

#include "parallel/parameter.h"

namespace fucina {

// Every trained gradient, use by use, in the order of the parameters. Allocates what is missing.
std::vector<Tensor> trained_grads(std::span<Parameter* const> parameters);

class GradAccumulator {
  public:
    explicit GradAccumulator(std::span<Parameter* const> parameters);

    // Before a pass: the newest two partial sums are to be added `merges` times after it.
    void begin_pass(int merges);
    // A gradient of the pass is whole. Its sums are formed now, so that a pass which ends in a
    // merge never holds all of its own gradients.
    void take(Parameter& parameter, size_t use);
    // After the pass: takes what is left. The gradients have no tensors until finish().
    void end_pass();
    // Puts the one remaining sum back into the gradients; nothing if there was no pass.
    void finish();

  private:
    size_t index_of(const Parameter& parameter, size_t use) const;

    std::span<Parameter* const> parameters_;
    std::unordered_map<const Parameter*, size_t> first_;  // index of a parameter's first use
    std::vector<std::vector<Tensor>> sums_;               // [held nodes][uses]
    std::vector<Tensor> newest_;                          // of this pass, as far as taken
    int merges_ = 0;
};

}  // namespace fucina
