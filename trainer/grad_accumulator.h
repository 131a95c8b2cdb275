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
#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace fucina {

// Whether experts' sums are made whole over ranks at the end of each wave; else at the end of the
// step, with all others, and waves join as their last pass is made.
bool sums_by_wave(const BatchPlan& plan, const MeshShape& mesh);

class GradAccumulator {
  public:
    // Adds up what the ranks hold that have the same experts, of one wave; collective over them,
    // also of those without any.
    using ReduceWave = std::function<void(size_t wave, std::span<const Tensor> sums)>;
    GradAccumulator(std::span<Parameter* const> parameters, const BatchPlan& plan,
                    const MeshShape& mesh, ReduceWave reduce);

    // One pass of this rank, or of every rank that shares the experts out with it, in their order;
    // a pass without grains is none.
    void begin_pass(const Pass& own, std::span<const Pass> of_ranks = {});
    // A gradient of the pass is whole: of all of it, or of its node `node`, which is a grain if
    // grains are apart, and of an expert the rank `node` of those that share them out if ranks are.
    // Its sums are formed now, so that a pass never holds all of its own gradients.
    void take(Parameter& parameter, size_t use, size_t node);
    // After the pass: takes what is left. The gradients have no tensors until finish().
    void end_pass();
    // After a wave's passes, if any.
    void end_wave(size_t wave);
    // Puts the sums into the gradients; nothing on a rank without any passes.
    void finish();

    // Whether finish() leaves a gradient that is summed over all ranks already.
    bool is_whole(const Parameter& parameter) const { return is_expert(parameter) && by_wave_; }

  private:
    struct Sum {
        Parameter* parameter;
        size_t use;
        // The wave's nodes, the oldest first, of each rank that shares out the experts.
        std::vector<std::vector<Tensor>> nodes;
        Tensor waves;                    // before this
        std::map<int, Tensor> replicas;  // those that have one
        bool taken = false;              // in this pass
    };
    static bool is_expert(const Parameter& parameter) { return parameter.layout.expert >= 0; }
    bool by_replica(const Parameter& parameter) const {
        return !plan_.one_wave() && !is_expert(parameter);
    }
    Sum& sum_of(const Parameter& parameter, size_t use) {
        return sums_[first_.at(&parameter) + use];
    }
    void push(std::vector<Tensor>& nodes, Tensor grad, int merges) const;

    const BatchPlan& plan_;
    const MeshShape mesh_;
    const bool by_wave_;
    ReduceWave reduce_;
    std::vector<Sum> sums_;
    std::unordered_map<const Parameter*, size_t> first_;  // index of a parameter's first use
    Pass own_;
    std::vector<Pass> of_ranks_;
};

}  // namespace fucina
