// What every communicator must do, run by threads and by MPI ranks alike: the collectives against
// their definition, and the reducer against the oracle "gather all leaves and add along the tree".
#pragma once
#include "parallel/communicator.h"

namespace fucina {

// Each throws Error(internal) on the first difference.
void check_collectives(Communicator& communicator);
// Ends in Error(internal) on a rank at least: `which` of kMismatches is a call whose sizes disagree
// between ranks 0 and 1. Nothing can be said to the group afterwards.
inline constexpr int kMismatches = 9;
void mismatch(Communicator& communicator, int which);
void check_reducer(Communicator& communicator, int64_t grains, int64_t bucket_bytes);

}  // namespace fucina
