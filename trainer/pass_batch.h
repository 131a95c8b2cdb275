// From the recipe's batch to what one pass of the model takes.
#pragma once
#include "configs/recipe.pb.h"
#include "data/packing.h"
#include "model/token_batch.h"
#include "parallel/batch_plan.h"
#include "parallel/grad_reducer.h"
#include "parallel/pipeline_schedule.h"

namespace fucina {

SumOrder sum_order(const Recipe& recipe);
Schedule pipeline_schedule(const Recipe& recipe);
BatchPlan plan_batch(const Recipe& recipe, int ranks);
GradReducer::Options reducer_options(const Recipe& recipe);

// Sequences [begin, end) of `packed`; a grain is `grain` sequences, counted from the first of
// `packed`, the last one may be shorter. begin is a boundary of grains.
TokenBatch make_pass_batch(const PackedSequences& packed, int64_t begin, int64_t end,
                           int64_t grain);

}  // namespace fucina
