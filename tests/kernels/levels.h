// Runs a body on every instruction set and in every order of products that this CPU has, with one
// and with two threads.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "kernels/runtime.h"
#include "tests/support/kernel_case.h"

namespace fucina::test {

// At the levels that offer the order of products in force.
template <class Body>
void for_each_level(const Body& body, Numerics numerics = Numerics::exact) {
    const Runtime before = runtime();
    for (const std::string& level : isa_levels()) {
        force_isa(level);
        for (const int threads : {1, 2}) {
            if (!offers(before.products)) continue;
            set_runtime(threads, numerics, before.products);
            body(level + (threads == 1 ? ", 1 thread" : ", 2 threads"));
        }
    }
    force_isa("");
    set_runtime(before.threads, before.numerics, before.products);
}

// A fixture for tests of bf16 products, run in each order.
class EveryOrder : public testing::TestWithParam<ProductOrder> {
  protected:
    void SetUp() override { set_runtime(runtime().threads, Numerics::exact, GetParam()); }
    void TearDown() override { set_runtime(runtime().threads, Numerics::exact); }
};

inline auto offered_orders() {
    std::vector<ProductOrder> orders;
    for (const ProductOrder order : {ProductOrder::amx, ProductOrder::vdpbf16, ProductOrder::fma})
        if (offers(order)) orders.push_back(order);
    return testing::ValuesIn(orders);
}

inline std::string order_name(const testing::TestParamInfo<ProductOrder>& order) {
    return std::string(name_of(order.param));
}

}  // namespace fucina::test
