// The micro-batches of a step, as all ranks go through them: each is one pass of every data index.
#pragma once
#include <vector>

#include "parallel/batch_plan.h"
#include "parallel/mesh.h"
#include "parallel/token_dispatcher.h"

namespace fucina {

// One pass of this rank, or of every data index that shares the experts out with it.
struct MicroBatch {
    Pass own;  // without grains where this rank has no more of the wave, but others do
    // Of those that share the experts out, in their order. Empty: this rank's alone.
    std::vector<Pass> of_ranks;
    ExpertSums expert_sums = ExpertSums::together;  // what gradients of experts are sums of
    bool grains_apart = false;                      // all others' are those of each grain
    bool idle = false;       // nobody among those that make it together has grains
    bool last = false;       // of the wave, but for idle ones
    bool ends_wave = false;  // on all ranks
    // All ranks end the wave with a micro-batch that has grains on each of them, and make the same
    // calls in it.
    bool together = false;
};

// Of data index `index`, in order, with passes of at most pass_grains. As many on all ranks, wave
// by wave, where all have the same pass_grains, so that ranks of different groups come to the end
// of a wave at the same place of their schedules. all_together: all ranks make their passes
// together, not only those that share the experts out.
std::vector<MicroBatch> make_micro_batches(const BatchPlan& plan, const MeshShape& mesh, int index,
                                           int64_t pass_grains, bool all_together = false);

}  // namespace fucina
