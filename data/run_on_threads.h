// body(0) .. body(count - 1) on a few threads; the first exception, by index, is thrown again.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace fucina {

template <class Body>
void run_on_threads(int64_t count, int64_t threads, const Body& body) {
    std::vector<std::exception_ptr> errors(static_cast<size_t>(count));
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        for (int64_t i = next++; i < count; i = next++) {
            try {
                body(i);
            } catch (...) {
                errors[static_cast<size_t>(i)] = std::current_exception();
            }
        }
    };
    {
        std::vector<std::jthread> others;
        for (int64_t t = 1; t < std::min(threads, count); ++t) others.emplace_back(work);
        work();
    }
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
}

}  // namespace fucina
