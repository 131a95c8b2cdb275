// Helpers of the simt tests: the schedules that each case runs under, and the error of a launch.
#pragma once
#include <string>
#include <vector>

#include "tests/simt/simt.h"

namespace fucina::simt {

inline std::vector<Options> every_order() {
    return {{Order::fifo, 1, Lateness::late},
            {Order::lifo, 1, Lateness::early},
            {Order::random, 1, Lateness::random},
            {Order::random, 2, Lateness::random}};
}

// "fifo", "random2".
inline std::string name_of(const Options& order) {
    constexpr const char* kNames[] = {"fifo", "lifo", "random"};
    std::string name = kNames[static_cast<int>(order.order)];
    if (order.order == Order::random) name += std::to_string(order.seed);
    return name;
}

inline const auto order_name = [](const auto& info) { return name_of(info.param); };

class OrderScope {
  public:
    explicit OrderScope(const Options& order) : before_(options) { options = order; }
    ~OrderScope() { options = before_; }
    OrderScope(const OrderScope&) = delete;
    OrderScope& operator=(const OrderScope&) = delete;

  private:
    Options before_;
};

// What the launch complains of, "" if nothing.
template <class Body>
std::string message_of(const Body& body) {
    try {
        body();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

}  // namespace fucina::simt
