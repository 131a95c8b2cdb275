// The one way in which kernels use threads: independent indices, no reductions. Every thread
// flushes denormals (AMX always does, so every level must), whoever made it.
#pragma once
#include <omp.h>

#include <cstdint>
#include <exception>

#include "kernels/runtime.h"

namespace fucina {

// Runs body(i) for i in [0, count), in contiguous equal ranges per thread. The first exception that
// a body throws is rethrown on the calling thread.
template <class Body>
void parallel_for(int64_t count, const Body& body) {
    if (count <= 0) return;
    const int64_t threads = runtime().threads < count ? runtime().threads : count;
    std::exception_ptr error;
#pragma omp parallel num_threads(static_cast <int>(threads))
    {
        flush_denormals();
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; ++i) {
            try {
                body(i);
            } catch (...) {
#pragma omp critical
                if (!error) error = std::current_exception();
            }
        }
    }
    if (error) std::rethrow_exception(error);
}

// Runs body(begin, end) over pieces of [0, count) that begin at multiples of `grain`: for
// elementwise kernels, whose result does not depend on the cut.
template <class Body>
void parallel_ranges(int64_t count, int64_t grain, const Body& body) {
    const int64_t pieces = (count + grain - 1) / grain;
    parallel_for(pieces, [&](int64_t piece) {
        const int64_t begin = piece * grain;
        body(begin, begin + grain < count ? begin + grain : count);
    });
}

}  // namespace fucina
