// GradAccumulator: the gradients of a step's passes on one rank, each added to the sum that it is
// part of (parallel/batch_plan.h): experts' to that of its wave, the others' to that of its
// replica. With one wave both are nodes of the same tree, and no replica keeps a sum of its own.
#pragma once
#include <functional>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "parallel/batch_plan.h"
#include "parallel/parameter.h"

namespace fucina {

// Every trained gradient, use by use, in the order of the parameters. Allocates what is missing.
std::vector<Tensor> trained_grads(std::span<Parameter* const> parameters);

class GradAccumulator {
  public:
    // reduce: adds up what is given over the ranks that hold grains of that wave; called for each
    // of several waves if there are several ranks, also on ranks without grains in it.
    using ReduceWave = std::function<void(size_t wave, std::span<const Tensor> sums)>;
    GradAccumulator(std::span<Parameter* const> parameters, const BatchPlan& plan,
                    ReduceWave reduce);

    void begin_pass(const Pass& pass);
    // A gradient of the pass is whole, that of its node `node`: a grain of it if grains are apart.
    // Its sums are formed now, so that a pass never holds all of its own gradients.
    void take(Parameter& parameter, size_t use, size_t node);
    // After the pass: takes what is left. The gradients have no tensors until finish().
    void end_pass();
    // After a wave's passes, if any.
    void end_wave(size_t wave);
    // Puts the sums into the gradients: those of experts are whole if waves were reduced; nothing
    // on a rank without any passes.
    void finish();

    // Gradients of experts of several waves are already summed over ranks.
    bool reduces_waves() const { return !plan_.one_wave() && plan_.ranks() > 1; }
    bool by_replica(const Parameter& parameter) const {
        return !plan_.one_wave() && parameter.layout.expert < 0;
    }

  private:
    struct Sum {
        Parameter* parameter;
        size_t use;
        std::vector<Tensor> nodes;  // of the wave, the oldest first; before them the waves before
        std::map<int, Tensor> replicas;  // those that have one
        bool taken = false;              // in this pass
    };
    Sum& sum_of(const Parameter& parameter, size_t use) {
        return sums_[first_.at(&parameter) + use];
    }
    int merges(const Pass& pass) const;

    const BatchPlan& plan_;
    ReduceWave reduce_;
    std::vector<Sum> sums_;
    std::unordered_map<const Parameter*, size_t> first_;  // index of a parameter's first use
    Pass pass_;
};

}  // namespace fucina
