// From the loader's sequences to what one pass of the model takes.
#pragma once
#include "data/packing.h"
#include "model/token_batch.h"

namespace fucina {

// Sequences [begin, end) of `packed`; a grain is `grain` sequences, counted from the first of
// `packed`, the last one may be shorter. begin is a boundary of grains.
TokenBatch make_pass_batch(const PackedSequences& packed, int64_t begin, int64_t end,
                           int64_t grain);

}  // namespace fucina
