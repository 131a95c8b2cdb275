// Notices when a router keeps sending nearly everything to a few experts: such a model trains, and
// its loss falls, so that nothing else says it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/model_spec.h"

namespace fucina {

// The busiest expert's tokens over the mean: 1 is even, experts / top_k is the most there can be.
double expert_load(const std::vector<int64_t>& counts);

class BalanceWatch {
  public:
    // Of this many steps in a row, all must be uneven.
    static constexpr int64_t kSteps = 50;

    // bias_update, learning_rate: the recipe's, for the advice.
    BalanceWatch(const ModelSpec& spec, double bias_update, double learning_rate);

    // expert_counts: [MoE layers][E] of one step, MTP's layer last. A line to show when a layer's
    // load stayed for kSteps nearer (as a ratio) to the most than to even; again when that still
    // holds at twice the step.
    std::optional<std::string> after(int64_t step,
                                     const std::vector<std::vector<int64_t>>& expert_counts);

  private:
    std::string describe(size_t layer, const std::vector<int64_t>& counts) const;

    const ModelSpec& spec_;
    const double bias_update_, learning_rate_;
    const double limit_;          // of the load
    std::vector<int64_t> since_;  // [MoE layers] first of the uneven steps up to now, or 0
    int64_t next_ = 0;            // step before which nothing is said
};

}  // namespace fucina
