// Runs a body on every instruction set this CPU has, with one and with two threads.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "kernels/runtime.h"

namespace fucina::test {

inline std::vector<std::string> levels() {
    std::vector<std::string> names;
    for (const IsaLevel level : {IsaLevel::scalar, IsaLevel::avx2, IsaLevel::avx512, IsaLevel::amx})
        if (level <= best_isa()) names.emplace_back(name_of(level));
    return names;
}

template <class Body>
void for_each_level(const Body& body, Numerics numerics = Numerics::exact) {
    const Runtime before = runtime();
    for (const std::string& level : levels())
        for (const int threads : {1, 2}) {
            force_isa(level);
            set_runtime(threads, numerics);
            body(level + (threads == 1 ? ", 1 thread" : ", 2 threads"));
        }
    force_isa("");
    set_runtime(before.threads, before.numerics);
}

}  // namespace fucina::test
