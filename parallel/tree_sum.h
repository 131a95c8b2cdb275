// Sums over ranks along a tree, so that their order is that of one rank's.
#pragma once
#include <span>
#include <vector>

#include "kernels/tensor.h"
#include "parallel/communicator.h"

namespace fucina {

// The sum of fp32 tensors of one shape, the first half's and the second half's along their trees;
// left in one of them, the others are overwritten. Undefined ones are skipped, as adding zeros
// would turn -0 into +0; undefined if all are.
Tensor tree_sum(const Exec& exec, std::span<const Tensor> parts);

// Collective: x, contiguous fp32 of one shape on all ranks, becomes the sum over them.
void tree_sum(Communicator& ranks, const Tensor& x);

}  // namespace fucina
