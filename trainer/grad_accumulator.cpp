#include "trainer/grad_accumulator.h"

#include <utility>

#include "kernels/error.h"
#include "kernels/optimizer.h"

namespace fucina {

namespace {

// to += from, where there is one yet.
void add_to(Tensor& to, Tensor from) {
    if (to.defined())
        ops::add_in_place(to, from);
    else
        to = std::move(from);
}

// The sum of the replicas [begin, begin + count) along their tree; those that are absent are
// skipped, as adding zeros would turn -0 into +0.
Tensor sum_replicas(std::map<int, Tensor>& sums, int begin, int count) {
    if (count == 1) {
        const auto found = sums.find(begin);
        return found == sums.end() ? Tensor() : std::move(found->second);
    }
    Tensor first = sum_replicas(sums, begin, count / 2);
    Tensor second = sum_replicas(sums, begin + count / 2, count / 2);
    if (second.defined()) add_to(first, std::move(second));
    return first;
}

}  // namespace

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

GradAccumulator::GradAccumulator(std::span<Parameter* const> parameters, const BatchPlan& plan,
                                 ReduceWave reduce)
    : plan_(plan), reduce_(std::move(reduce)) {
    for (Parameter* parameter : parameters) {
        if (!parameter->trained) continue;
        first_[parameter] = sums_.size();
        for (size_t use = 0; use < parameter->grads.size(); ++use)
            sums_.push_back({parameter, use, {}, {}});
    }
}

// A wave's last sum joins those of the waves before, unless ranks have to join theirs first.
int GradAccumulator::merges(const Pass& pass) const {
    return pass.merges + (pass.ends_wave && pass.wave > 0 && !reduces_waves() ? 1 : 0);
}

void GradAccumulator::begin_pass(const Pass& pass) {
    pass_ = pass;
    for (Sum& sum : sums_) sum.taken = false;
}

void GradAccumulator::take(Parameter& parameter, size_t use, size_t node) {
    Sum& sum = sum_of(parameter, use);
    sum.taken = true;
    Tensor grad = std::exchange(parameter.grads[use], {});
    if (by_replica(parameter)) {
        const int64_t grain = pass_.grains.begin + static_cast<int64_t>(node);
        add_to(sum.replicas[plan_.replica(pass_.wave, grain)], std::move(grad));
        return;
    }
    for (int i = 0; i < merges(pass_); ++i) {
        FUCINA_CHECK(!sum.nodes.empty(), "a merge needs two sums of ", parameter.name);
        Tensor earlier = std::move(sum.nodes.back());
        sum.nodes.pop_back();
        ops::add_in_place(earlier, grad);
        grad = std::move(earlier);
    }
    sum.nodes.push_back(std::move(grad));
}

void GradAccumulator::end_pass() {
    for (Sum& sum : sums_) {
        if (sum.taken) continue;
        FUCINA_CHECK(sum.parameter->grads[sum.use].defined(), sum.parameter->name,
                     " has no gradient");
        take(*sum.parameter, sum.use, 0);
    }
}

void GradAccumulator::end_wave(size_t wave) {
    if (!reduces_waves()) return;
    std::vector<Tensor> news;
    for (Sum& sum : sums_) {
        if (by_replica(*sum.parameter)) continue;
        const bool absent = sum.nodes.size() == (wave > 0 ? 1 : 0);
        if (absent) {
            MemoryPurpose purpose("gradients");
            sum.nodes.push_back(Tensor::empty(sum.parameter->value.shape(), DType::f32));
        }
        news.push_back(sum.nodes.back());
    }
    reduce_(wave, news);
    for (Sum& sum : sums_) {
        if (sum.nodes.size() < 2) continue;
        ops::add_in_place(sum.nodes[0], sum.nodes[1]);
        sum.nodes.resize(1);
    }
}

void GradAccumulator::finish() {
    for (Sum& sum : sums_) {
        FUCINA_CHECK(sum.nodes.size() <= 1, sum.nodes.size(), " partial sums were never added");
        Tensor& grad = sum.parameter->grads[sum.use];
        if (by_replica(*sum.parameter))
            grad = sum_replicas(sum.replicas, 0, plan_.order().replicas);
        else if (!sum.nodes.empty())
            grad = std::move(sum.nodes[0]);
    }
    sums_.clear();
}

}  // namespace fucina
