// Cases of optimizer.h and of embedding.h's table, the same for every back end.
#pragma once
#include <functional>

#include "kernels/embedding.h"
#include "kernels/optimizer.h"
#include "tests/support/kernel_case.h"

namespace fucina::test {

// A back end's kernels, with the contracts of ops::.
struct OptimizerKernels {
    std::function<void(const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m,
                       const Tensor& v)>
        adamw;
    std::function<ExactSum(const Tensor& x, int64_t chunks)> sum_of_squares;
    std::function<void(const Tensor& y, const Tensor& x)> add_in_place;
    std::function<void(const Tensor& x, const Tensor& out)> cast;
};

struct EmbeddingKernels {
    std::function<void(const Tensor& ids, const Tensor& table, const Tensor& out)> embedding;
    std::function<void(const Tensor& ids, const Tensor& d_out, const LeafTree& tree,
                       const Tensor& d_table)>
        embedding_backward;
};

void add_optimizer_cases(Cases& cases, const OptimizerKernels& fast);
void add_embedding_cases(Cases& cases, const EmbeddingKernels& fast);

}  // namespace fucina::test
