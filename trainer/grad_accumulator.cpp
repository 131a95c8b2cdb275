#include "trainer/grad_accumulator.h"

#include <utility>

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

GradAccumulator::GradAccumulator(std::span<Parameter* const> parameters) : parameters_(parameters) {
    size_t uses = 0;
    for (const Parameter* parameter : parameters) {
        if (!parameter->trained) continue;
        first_[parameter] = uses;
        uses += parameter->grads.size();
    }
    newest_.resize(uses);
}

size_t GradAccumulator::index_of(const Parameter& parameter, size_t use) const {
    return first_.at(&parameter) + use;
}

void GradAccumulator::begin_pass(int merges) {
    FUCINA_CHECK(merges <= static_cast<int>(sums_.size()), "a merge needs two sums");
    merges_ = merges;
}

void GradAccumulator::take(Parameter& parameter, size_t use) {
    const size_t index = index_of(parameter, use);
    Tensor sum = std::exchange(parameter.grads[use], {});
    for (int i = 0; i < merges_; ++i) {
        Tensor earlier = std::exchange(sums_[sums_.size() - 1 - static_cast<size_t>(i)][index], {});
        ops::add_in_place(earlier, sum);
        sum = std::move(earlier);
    }
    newest_[index] = std::move(sum);
}

void GradAccumulator::end_pass() {
    for (Parameter* parameter : parameters_) {
        if (!parameter->trained) continue;
        for (size_t use = 0; use < parameter->grads.size(); ++use) {
            if (newest_[index_of(*parameter, use)].defined()) continue;
            FUCINA_CHECK(parameter->grads[use].defined(), parameter->name, " has no gradient");
            take(*parameter, use);
        }
    }
    sums_.resize(sums_.size() - static_cast<size_t>(merges_));
    const size_t uses = newest_.size();
    sums_.push_back(std::exchange(newest_, std::vector<Tensor>(uses)));
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
