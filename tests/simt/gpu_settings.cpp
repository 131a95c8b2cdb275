#include "tests/support/gpu_settings.h"

#include "tests/simt/device.h"
#include "tests/simt/every_order.h"

namespace fucina::test {

std::vector<Setting> gpu_settings() {
    std::vector<Setting> settings;
    for (const simt::Options& order : simt::every_order())
        settings.push_back({simt::name_of(order), [order] { simt::options = order; },
                            [] { simt::options = {}; }, device()});
    return settings;
}

}  // namespace fucina::test
