#include "parallel/heartbeat.h"

#include <array>
#include <chrono>

namespace fucina {

std::string_view name_of(Phase phase) {
    constexpr std::array<std::string_view, 9> names{"start-up", "load",   "forward/backward",
                                                    "reduce",   "update", "log",
                                                    "evaluate", "save",   "finish"};
    return names.at(static_cast<size_t>(phase));
}

std::string_view name_of(Call call) {
    constexpr std::array<std::string_view, 11> names{
        "no call",        "barrier", "broadcast", "all_gather", "all_to_all_v", "all_reduce_sum",
        "all_reduce_max", "split",   "send",      "receive",    "finish"};
    return names.at(static_cast<size_t>(call));
}

int64_t monotonic_ns() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace fucina
