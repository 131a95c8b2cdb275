// StepRunner: the arithmetic of one training step on all ranks, from samples to updated weights.
// Every number that it returns is the same on all ranks, and in exact numerics the same for any
// number of ranks, threads and passes.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "configs/recipe.pb.h"
#include "data/batch_loader.h"
#include "model/model.h"
#include "parallel/grad_reducer.h"
#include "parallel/mesh.h"
#include "trainer/memory_plan.h"
#include "trainer/micro_batch_runner.h"
#include "trainer/optimizer.h"

namespace fucina {

struct StepResult {
    double loss = 0;          // token-mean cross-entropy, nats
    double mtp_loss = 0;      // token-mean, unweighted
    double balance_loss = 0;  // mean over sequences of the sum over layers, unweighted
    double grad_norm = 0;     // before clipping
    double learning_rate = 0;
    int64_t tokens = 0;  // of the global batch
    int64_t pairs = 0;   // (query, key) pairs of attention, of the global batch
    std::vector<std::vector<int64_t>> expert_counts;  // [MoE layers][E], of the global batch
    int64_t dropped = 0;  // pairs of a token and an expert, by train.expert_capacity
    // The first parameter whose gradient is not finite or too large for sums of integers; the norm
    // is NaN then.
    std::string outside;
    bool finite = true;  // false: loss or norm is NaN or infinite and nothing was updated
};

class StepRunner {
  public:
    struct Parts {
        const Mesh& mesh;
        Model& model;
        Optimizer& optimizer;
        const BatchLoader& loader;
        // Before weights or moments change: what reads them is done, or has what it needs.
        std::function<void()> before_update = {};
        int64_t snapshot = 0;  // bytes that it may take to copy them
    };
    StepRunner(const Recipe& recipe, const Parts& parts);

    const MemoryPlan& memory() const { return memory_; }
    // Step `step` (from 1) on the samples from `first_sample` on.
    StepResult run(int64_t step, int64_t first_sample);

  private:
    struct Sums;
    PackedSequences load(int64_t first_sample);
    void run_passes(const PackedSequences& own, const PassOptions& scales, Sums& sums);
    TokenBatch batch_of(const Pass& pass, const PackedSequences& own) const;
    std::vector<SampleRange> own_samples(int64_t first_sample) const;
    void update(int64_t step, StepResult& result);

    const Recipe recipe_;
    Parts parts_;
    const int index_;  // of this rank along data
    const BatchPlan plan_;
    MemoryPlan memory_;
    std::vector<MicroBatch> micro_batches_;
    MicroBatchRunner runner_;
    std::vector<std::unique_ptr<GradReducer>> reducers_;  // of each of our stages
    Prefetcher prefetcher_;
    std::string outside_;  // StepResult::outside of the step, on all ranks
};

}  // namespace fucina
