#include "trainer/grad_accumulator.h"

#include "kernels/error.h"
#include "kernels/optimizer.h"

namespace fucina {

std::vector<Tensor> trained_grads(std::span<Parameter* const> parameters) {
    std::vector<Tensor> grads;
    for (Parameter* parameter : parameters) {
        if (!parameter->trained) continue;
        for (size_t use = 0; use < parameter->grads.size(); ++use) {
            grads.push_back(parameter->grad(use));
        }
    }
    return grads;
}

void GradAccumulator::add_pass(int merges) {
    std::vector<Tensor> newest = trained_grads(parameters_);
    for (Parameter* parameter : parameters_) {
        for (Tensor& grad : parameter->grads) grad = {};
    }
    for (int i = 0; i < merges; ++i) {
        FUCINA_CHECK(!sums_.empty(), "a merge needs two sums");
        std::vector<Tensor> earlier = std::move(sums_.back());
        sums_.pop_back();
        for (size_t g = 0; g < newest.size(); ++g) {
            ops::add_in_place(earlier[g], newest[g]);
            newest[g] = {};
        }
        newest = std::move(earlier);
    }
    sums_.push_back(std::move(newest));
}

void GradAccumulator::finish() {
    FUCINA_CHECK(sums_.size() <= 1, sums_.size(), " partial sums were never added");
    if (sums_.empty()) return;
    auto sum = sums_.back().begin();
    for (Parameter* parameter : parameters_) {
        if (!parameter->trained) continue;
        for (Tensor& grad : parameter->grads) grad = *sum++;
    }
    sums_.clear();
}

}  // namespace fucina
