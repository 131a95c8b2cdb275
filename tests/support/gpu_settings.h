// The settings in which a kernel must give the same bits on the GPU that the test program was built
// for; at least two.
#pragma once
#include <vector>

#include "tests/support/kernel_case.h"

namespace fucina::test {

std::vector<Setting> gpu_settings();

}  // namespace fucina::test
