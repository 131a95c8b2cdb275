// Cases of rope.h, the same for every back end.
#pragma once
#include <functional>

#include "kernels/rope.h"
#include "tests/support/kernel_case.h"

namespace fucina::test {

// A back end's kernel, with the contract of ops::rope.
using Rope = std::function<void(const Tensor& x, int64_t heads, const Tensor& positions,
                                const RopeTable& table, bool inverse)>;
void add_rope_cases(Cases& cases, const Rope& fast);

}  // namespace fucina::test
