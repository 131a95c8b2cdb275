// How many decoder blocks each stage of a pipeline has.
#pragma once
#include <cstdint>
#include <vector>

#include "model/model_spec.h"

namespace fucina {

// Multiply-adds that a token costs in the matrix products of a block, and of what comes behind the
// last block: head, and MTP.
int64_t layer_cost(const ModelSpec& spec, int64_t layer);
int64_t end_cost(const ModelSpec& spec, bool with_mtp);

// At least one block each, so that the stage that costs most costs as little as can be. stages: at
// most spec.layers.
std::vector<int64_t> split_layers(const ModelSpec& spec, int stages, bool with_mtp);

}  // namespace fucina
