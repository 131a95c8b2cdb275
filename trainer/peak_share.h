// Which share of what this machine can compute right now a step made use of.
#pragma once
#include <chrono>
#include <cstdint>

#include "configs/recipe.pb.h"
#include "model/model.h"

namespace fucina {

// Floating-point operations of a training step: 6 a weight of a matrix product and token (of the
// experts, those that a token passes), and attention's over `pairs` (query, key) pairs.
// Recomputation is not counted.
double step_flops(Model& model, int64_t tokens, int64_t pairs);

class PeakShare {
  public:
    PeakShare(const Train& train, int ranks) : train_(train), ranks_(ranks) {}

    // Of a step that made `flops` in `seconds` on all ranks. Calibrates on this rank's threads
    // for two milliseconds at the first call and then every ten seconds, so call it between steps.
    double of(double flops, double seconds);

  private:
    const Train train_;
    const int ranks_;
    double peak_ = 0;  // operations a second, all ranks
    std::chrono::steady_clock::time_point measured_;
};

}  // namespace fucina
