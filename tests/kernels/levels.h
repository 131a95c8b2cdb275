// Runs a body on every instruction set this CPU has, with one and with two threads.
#pragma once
#include <string>
#include <string_view>

#include "kernels/runtime.h"
#include "tests/support/kernel_case.h"

namespace fucina::test {

template <class Body>
void for_each_level(const Body& body, Numerics numerics = Numerics::exact) {
    const Runtime before = runtime();
    for (const std::string& level : isa_levels())
        for (const int threads : {1, 2}) {
            force_isa(level);
            set_runtime(threads, numerics);
            body(level + (threads == 1 ? ", 1 thread" : ", 2 threads"));
        }
    force_isa("");
    set_runtime(before.threads, before.numerics);
}

}  // namespace fucina::test
