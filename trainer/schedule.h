// The learning rate of every step.
#pragma once
#include <cstdint>

#include "configs/recipe.pb.h"

namespace fucina {

// step counts from 1. Steps up to warmup_steps rise linearly: learning_rate · step / warmup_steps.
// Then, with t = step - 1 and w = warmup_steps,
//   constant: learning_rate;
//   cosine:   min + (max - min) · (1 + cos(pi (t - w) / (steps - w))) / 2;
//   wsd:      learning_rate, and over the last decay_fraction of the steps linearly towards min.
double learning_rate(const Train& train, int64_t step);

}  // namespace fucina
