// WeightGradQueue: weight gradients as data, so that when they are computed is decided in one
// place: at once, and never for a frozen parameter.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "parallel/parameter.h"

namespace fucina {

// dW = dyᵀ x, summed along tree.
struct WeightGrad {
    Parameter* parameter = nullptr;
    Tensor dy, x;  // [T, N], [T, K]
    const LeafTree* tree = nullptr;
    size_t use = 0;  // index into Parameter::grads
};

// One dW per expert; rows of dy and x are slots, or tokens where an index is given.
struct ExpertWeightGrad {
    Parameter* parameter = nullptr;
    ops::GroupedWgrad product;
};

class WeightGradQueue {
  public:
    void add(const WeightGrad& item) {
        if (!item.parameter->trained) return;
        ops::linear_wgrad(item.dy, item.x, *item.tree, item.parameter->grad(item.use));
        whole(*item.parameter, item.use);
    }
    void add(const ExpertWeightGrad& item) {
        if (!item.parameter->trained) return;
        ops::grouped_linear_wgrad(item.product, item.parameter->grad());
        whole(*item.parameter, 0);
    }
    // The gradient was computed elsewhere.
    void whole(Parameter& parameter, size_t use) const {
        if (done) done(parameter, use);
    }

    GradDone done;  // may take the gradient's tensor away
};

}  // namespace fucina
