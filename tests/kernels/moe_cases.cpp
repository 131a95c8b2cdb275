// Cases of moe.h.
#include "tests/support/moe_cases.h"

namespace fucina::test {
namespace {

const AddCases kMoe([](Cases& cases) {
    add_router_cases(cases, {ops::router, ops::router_backward});
    add_balance_cases(cases, ops::balance_loss);
    add_movement_cases(cases, {ops::make_token_map, ops::count_choices, ops::update_router_bias,
                               ops::combine, ops::gather_rows, ops::scatter_rows});
});

}  // namespace
}  // namespace fucina::test
