// What two checkpoints differ in, tensor by tensor.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/checkpoint_reader.h"

namespace fucina {

struct TensorDiff {
    std::string kind, name;
    std::string apart;  // why the values were not compared: it is in one alone, or has other shapes
    // Of the values: how many there are, how many have other bits, the largest difference, and the
    // norm of all of them over the norm of the first's.
    int64_t elements = 0, differing = 0;
    double largest = 0, relative = 0;
};

struct CheckpointDiff {
    std::vector<TensorDiff> tensors;  // that differ, in the order of the first, then of the second
    int64_t equal = 0;                // others, to the last bit
    std::vector<std::string> other;   // a line each: steps, samples, keys of the recipe
    bool same() const { return tensors.empty() && other.empty(); }
};

// Checksums are compared first; DamagedFile. Takes some MiB, whatever the model's size.
CheckpointDiff diff_checkpoints(const CheckpointReader& a, const CheckpointReader& b);

}  // namespace fucina
