// A process of its own for what a hostile file could crash, hang or make greedy: a library that
// parses it.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace fucina {

struct ChildLimits {
    int seconds = 10;                  // of CPU; three times as many may pass
    int64_t bytes = int64_t{1} << 30;  // of address space, beyond what this process has
};

// What body() returns there. An Error that it throws is thrown here, with its code. Where it
// crashes or takes more than `limits`, exit 3, beginning with `name`. No other thread may be inside
// the library meanwhile.
std::string in_child(const std::string& name, const std::function<std::string()>& body,
                     const ChildLimits& limits = {});

}  // namespace fucina
