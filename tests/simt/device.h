// The one GPU that the SIMT model is.
#pragma once
#include "kernels/cuda/runtime.h"

namespace fucina::test {

inline const Exec& device() {
    static const Exec exec = cuda::open_device(0);
    return exec;
}

}  // namespace fucina::test
