// The one way in which kernels use threads: independent indices, no reductions. Every thread
// flushes denormals (AMX always does, so every level must), whoever made it.
#pragma once
#include <omp.h>

#include <cstdint>
#include <exception>

#include "kernels/runtime.h"

namespace fucina {

constexpr int64_t kWorthAThread = 32768;  // elements; fewer cost less than waking a thread

// Runs body(i) for i in [0, count), in contiguous equal ranges per thread. `elements`: about how
// many one index touches, so that little work stays on the calling thread. The first exception that
// a body throws is rethrown on the calling thread.
template <class Body>
void parallel_for(int64_t count, int64_t elements, const Body& body) {
    const int64_t useful = count * elements / kWorthAThread;
    int64_t threads = runtime().threads < count ? runtime().threads : count;
    if (useful < threads) threads = useful;
    if (threads <= 1) {
        flush_denormals();
        for (int64_t i = 0; i < count; ++i) body(i);
        return;
    }
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

// As parallel_for for few tasks of unequal size: each thread takes the next one when it is free.
// What a task computes must not depend on the thread.
template <class Body>
void parallel_tasks(int64_t count, const Body& body) {
    if (count <= 0) return;
    const int64_t threads = runtime().threads < count ? runtime().threads : count;
    if (threads == 1) {
        flush_denormals();
        for (int64_t i = 0; i < count; ++i) body(i);
        return;
    }
    std::exception_ptr error;
#pragma omp parallel num_threads(static_cast <int>(threads))
    {
        flush_denormals();
#pragma omp for schedule(dynamic, 1)
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

// For indices that are worth a thread each.
template <class Body>
void parallel_for(int64_t count, const Body& body) {
    parallel_for(count, kWorthAThread, body);
}

// Runs body(begin, end) over pieces of [0, count) that begin at multiples of `grain`: for
// elementwise kernels, whose result does not depend on the cut. `elements`: of one piece.
template <class Body>
void parallel_ranges(int64_t count, int64_t grain, int64_t elements, const Body& body) {
    parallel_for((count + grain - 1) / grain, elements, [&](int64_t piece) {
        const int64_t begin = piece * grain;
        body(begin, begin + grain < count ? begin + grain : count);
    });
}

}  // namespace fucina
