// GradAccumulator: the gradients of a step's passes on one rank, each added to the sum that it is
// part of (parallel/batch_plan.h): experts' to that of its wave, the others' to that of its
// replica. With one wave both are nodes of the same tree, and no replica keeps a sum of its own.
// Where sums are integers, every grain is added to one sum a rank.
// What is whole on this rank goes to the GradReducer, as soon as that may exchange it.
#pragma once
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "parallel/batch_plan.h"
#include "parallel/grad_reducer.h"
#include "trainer/micro_batches.h"

namespace fucina {

// Whether experts' sums are made whole over ranks at the end of each wave; else at the end of the
// step, with all others, and waves join as their last pass is made.
bool sums_by_wave(const BatchPlan& plan, const MeshShape& mesh);

// Where sums are integers, what a grain's gradient must be less than, so that no sum over the batch
// leaves the grid.
float grain_bound(const BatchPlan& plan);

class GradAccumulator {
  public:
    GradAccumulator(std::span<Parameter* const> parameters, const BatchPlan& plan,
                    const MeshShape& mesh, GradReducer& reducer);

    // Collective over all ranks, also of those without passes in the wave, as is end_wave().
    // together: as MicroBatch::together, of the wave.
    void begin_wave(size_t wave, bool together);
    // A gradient of the micro-batch is whole: of all of it, or of its node `node`, which is a grain
    // if grains are apart, and of an expert what PassOptions::expert_sums says. Its sums are formed
    // now, so that a pass never holds all of its own gradients. Of one use of a parameter
    // micro-batches come in their order; of the wave, or with gradients that are not exchanged at
    // its end of the next one. The gradients have no tensors until finish().
    void take(const MicroBatch& micro_batch, Parameter& parameter, size_t use, size_t node);
    // After a wave's passes, if any.
    void end_wave();
    // The gradients are the sums over all ranks.
    void finish();
    // The first parameter of which a grain's gradient is not finite, or too large for a sum of
    // integers, on this rank; empty: none. Its sum is rubbish.
    const std::string& outside() const { return outside_; }

  private:
    struct Sum {
        Parameter* parameter;
        size_t use;
        // The wave's nodes, the oldest first, of each rank that shares out the experts.
        std::vector<std::vector<Tensor>> nodes;
        Tensor waves;                    // before this, over all ranks
        std::map<int, Tensor> replicas;  // those that have one
        Tensor integers = {};            // instead of all these, where sums are integers
        bool given = false;              // to the reducer, in this wave
    };
    static bool is_expert(const Parameter& parameter) { return Holders::is_expert(parameter); }
    bool by_replica(const Parameter& parameter) const {
        return !plan_.one_wave() && !is_expert(parameter);
    }
    Sum& sum_of(const Parameter& parameter, size_t use) {
        return sums_[first_.at(&parameter) + use];
    }
    bool last_wave() const { return wave_ + 1 == plan_.waves().size(); }
    // Whether sums of experts, or of the others, are exchanged at the end of the wave.
    bool exchanged(bool experts) const { return last_wave() || (experts && by_wave_); }
    bool is_last(const MicroBatch& micro_batch, const Sum& sum, size_t node) const;
    static size_t grains(const MicroBatch& micro_batch, bool experts);
    void add_grain(Sum& sum, Tensor grad);
    static void push(Sum& sum, size_t node, Tensor grad, int merges);
    void give(Sum& sum);
    Tensor own_sum(Sum& sum);
    std::vector<bool> held(bool experts) const;

    const BatchPlan& plan_;
    const MeshShape mesh_;
    const bool by_wave_;
    GradReducer& reducer_;
    std::vector<Sum> sums_;
    std::unordered_map<const Parameter*, size_t> first_;  // index of a parameter's first use
    size_t wave_ = 0;
    std::string outside_;
};

}  // namespace fucina
