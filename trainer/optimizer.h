// Optimizer: AdamW over the model's trained parameters, its moments, and the global gradient norm.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "configs/recipe.pb.h"
#include "kernels/optimizer.h"
#include "parallel/mesh.h"
#include "parallel/parameter.h"
#include "parallel/weight_gatherer.h"

namespace fucina {

class Optimizer {
  public:
    struct Options {
        int64_t chunks = 1;          // exact.chunks, for the gradient's norm
        const Mesh* mesh = nullptr;  // null: one rank
        // Each rank keeps moments of its owned_box alone, updates that part of the weights, and
        // gets the others'.
        bool shared_out = false;
        bool grad_shards = false;  // and has gradients of it alone
    };
    // Moments start at zero, fp32 or bf16 by train.moments.
    Optimizer(const Train& train, std::span<Parameter* const> parameters, const Options& options);
    Optimizer(const Train& train, std::span<Parameter* const> parameters)
        : Optimizer(train, parameters, Options()) {}

    struct State {
        Parameter* parameter;
        Box box;      // of the parameter, that we update
        Tensor m, v;  // of it
    };
    const Options& options() const { return options_; }
    std::span<const State> states() const { return states_; }
    // As at the beginning; of a parameter that others hold it has no elements.
    State fresh_state(Parameter& parameter) const;

    // Updates taken so far; a skipped step takes none.
    int64_t updates() const { return updates_; }
    void set_updates(int64_t updates) { updates_ = updates; }

    // Adds the uses of every gradient, in order, into its first; the root of the sum of all
    // squares, each element of the model counted once. NaN if any gradient is NaN or infinite.
    // Collective.
    double join_and_norm();

    // torch.nn.utils.clip_grad_norm_'s factor for clip_norm (0: no clipping), then AdamW on all.
    // Packed copies are remade. Collective where it is shared out.
    void update(double learning_rate, double grad_norm);

  private:
    const Train train_;
    void update(const AdamW& step, const State& state) const;
    bool counts(const Mesh& mesh, const Layout& layout) const;
    int64_t chunks_here(const Parameter& parameter) const;

    const Options options_;
    std::vector<State> states_;
    std::optional<WeightGatherer> gatherer_;
    int64_t updates_ = 0;
};

}  // namespace fucina
