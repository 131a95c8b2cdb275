// Cases of norm.h and rope.h.
#include "tests/support/norm_cases.h"
#include "tests/support/rope_cases.h"

namespace fucina::test {
namespace {

const AddCases kNorm([](Cases& cases) {
    add_rope_cases(cases, ops::rope);
    add_norm_cases(cases, {ops::rmsnorm, ops::add_rmsnorm, ops::rmsnorm_backward});
});

}  // namespace
}  // namespace fucina::test
