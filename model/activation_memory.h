// How much memory the activations of a pass need, by counting what layers keep
// (model/layers/*.h, Saved) and what the widest moment of backward adds.
#pragma once
#include <cstdint>

#include "kernels/dtype.h"
#include "model/model_spec.h"
#include "model/recompute.h"

namespace fucina {

// Bytes for a pass of `tokens`, the head's logits included; MTP is not counted.
int64_t activation_bytes(const ModelSpec& spec, DType compute, RecomputeKind kind, int64_t tokens);

}  // namespace fucina
