// Optimizer: AdamW over the model's trained parameters, its moments, and the global gradient norm.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "configs/recipe.pb.h"
#include "parallel/communicator.h"
#include "parallel/parameter.h"

namespace fucina {

class Optimizer {
  public:
    // Moments start at zero, fp32 or bf16 by train.moments. chunks: of the order of sums, for the
    // gradient's norm.
    Optimizer(const Train& train, std::span<Parameter* const> parameters, int64_t chunks = 1);

    struct State {
        Parameter* parameter;
        Tensor m, v;
    };
    std::span<const State> states() const { return states_; }

    // Updates taken so far; a skipped step takes none.
    int64_t updates() const { return updates_; }
    void set_updates(int64_t updates) { updates_ = updates; }

    // Adds the uses of every gradient, in order, into its first; the root of the sum of all
    // squares, each element of the model counted once. NaN if any gradient is NaN or infinite.
    // Collective: `expert` are the ranks that share the experts out.
    double join_and_norm(Communicator& expert);

    // torch.nn.utils.clip_grad_norm_'s factor for clip_norm (0: no clipping), then AdamW on all.
    // Packed copies are remade.
    void update(double learning_rate, double grad_norm);

  private:
    const Train train_;
    const int64_t chunks_;
    std::vector<State> states_;
    int64_t updates_ = 0;
};

}  // namespace fucina
