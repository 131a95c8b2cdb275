// What every communicator must do, run by threads and by MPI ranks alike: the collectives against
// their definition, and the reducer against the oracle "gather all leaves and add along the tree".
#pragma once
#include "parallel/communicator.h"

namespace fucina {

// Each throws Error(internal) on the first difference.
void check_collectives(Communicator& communicator);
void check_reducer(Communicator& communicator, int64_t grains, int64_t bucket_bytes);

}  // namespace fucina
