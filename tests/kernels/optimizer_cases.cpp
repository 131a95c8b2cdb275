// Cases of optimizer.h and of embedding.h's table.
#include "tests/support/optimizer_cases.h"

namespace fucina::test {
namespace {

const AddCases kOptimizer([](Cases& cases) {
    add_optimizer_cases(cases,
                        {[](const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m,
                            const Tensor& v) { ops::adamw(step, w, grad, m, v); },
                         ops::sum_of_squares, ops::add_in_place, ops::cast});
    add_embedding_cases(cases, {ops::embedding, ops::embedding_backward});
});

}  // namespace
}  // namespace fucina::test
