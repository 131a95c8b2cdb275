// A GPU, twice: what depends on the order of blocks differs sooner or later.
#include "tests/support/gpu_settings.h"

#include "tests/simt/device.h"

namespace fucina::test {

std::vector<Setting> gpu_settings() {
    const auto nothing = [] {};
    return {{"once", nothing, nothing, device()}, {"again", nothing, nothing, device()}};
}

}  // namespace fucina::test
