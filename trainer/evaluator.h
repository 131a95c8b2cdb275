// The loss on held-out data: every sequence of every source of data.valid once, shared among ranks.
#pragma once
#include <cstdint>

#include "data/batch_loader.h"
#include "model/model.h"
#include "parallel/communicator.h"

namespace fucina {

// Token-mean cross-entropy, nats; the same on every rank and for any number of ranks. `at_a_time`:
// sequences of one forward.
double evaluate_loss(Communicator& communicator, Model& model, const BatchLoader& valid,
                     int64_t at_a_time);

}  // namespace fucina
