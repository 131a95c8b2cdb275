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

// The sum of [begin, begin + count) along their tree, halved from the top; those that are absent
// are skipped, as adding zeros would turn -0 into +0.
Tensor sum_tree(std::map<int, Tensor>& sums, int begin, int count) {
    if (count == 1) {
        const auto found = sums.find(begin);
        return found == sums.end() ? Tensor() : std::move(found->second);
    }
    const int half = (count + 1) / 2;
    Tensor first = sum_tree(sums, begin, half);
    Tensor second = sum_tree(sums, begin + half, count - half);
    if (second.defined()) add_to(first, std::move(second));
    return first;
}

}  // namespace

bool sums_by_wave(const BatchPlan& plan, const MeshShape& mesh) {
    return mesh.expert_sources() > 1 || (!plan.one_wave() && mesh.data > 1);
}

GradAccumulator::GradAccumulator(std::span<Parameter* const> parameters, const BatchPlan& plan,
                                 const MeshShape& mesh, ReduceWave reduce)
    : plan_(plan), mesh_(mesh), by_wave_(sums_by_wave(plan, mesh)), reduce_(std::move(reduce)) {
    for (Parameter* parameter : parameters) {
        if (!parameter->trained) continue;
        first_[parameter] = sums_.size();
        const auto ranks = static_cast<size_t>(is_expert(*parameter) ? mesh.expert_sources() : 1);
        for (size_t use = 0; use < parameter->grads.size(); ++use)
            sums_.push_back({parameter, use, std::vector<std::vector<Tensor>>(ranks), {}, {}});
    }
}

void GradAccumulator::begin_pass(const Pass& own, std::span<const Pass> of_ranks) {
    own_ = own;
    of_ranks_.assign(of_ranks.begin(), of_ranks.end());
    for (Sum& sum : sums_) sum.taken = false;
}

void GradAccumulator::push(std::vector<Tensor>& nodes, Tensor grad, int merges) const {
    for (int i = 0; i < merges; ++i) {
        FUCINA_CHECK(!nodes.empty(), "a merge needs two sums");
        Tensor earlier = std::move(nodes.back());
        nodes.pop_back();
        ops::add_in_place(earlier, grad);
        grad = std::move(earlier);
    }
    nodes.push_back(std::move(grad));
}

void GradAccumulator::take(Parameter& parameter, size_t use, size_t node) {
    Sum& sum = sum_of(parameter, use);
    sum.taken = true;
    Tensor grad = std::exchange(parameter.grads[use], {});
    if (by_replica(parameter)) {
        const int64_t grain = own_.grains.begin + static_cast<int64_t>(node);
        add_to(sum.replicas[plan_.replica(own_.wave, grain)], std::move(grad));
    } else if (!is_expert(parameter) || of_ranks_.empty()) {
        const bool joins = own_.ends_wave && own_.wave > 0 && !by_wave_;
        push(sum.nodes[0], std::move(grad), own_.merges + (joins ? 1 : 0));
    } else if (const Pass& pass = of_ranks_[node]; pass.grains.count() > 0) {
        push(sum.nodes[node], std::move(grad), pass.merges);
    }
}

void GradAccumulator::end_pass() {
    for (Sum& sum : sums_) {
        if (sum.taken || (own_.grains.count() == 0 && !is_expert(*sum.parameter))) continue;
        FUCINA_CHECK(sum.parameter->grads[sum.use].defined(), sum.parameter->name,
                     " has no gradient");
        take(*sum.parameter, sum.use, 0);
    }
}

void GradAccumulator::end_wave(size_t wave) {
    if (!by_wave_) return;
    std::vector<Sum*> experts;
    std::vector<Tensor> news;
    for (Sum& sum : sums_) {
        if (!is_expert(*sum.parameter)) continue;
        std::map<int, Tensor> ranks;
        for (size_t rank = 0; rank < sum.nodes.size(); ++rank) {
            FUCINA_CHECK(sum.nodes[rank].size() <= 1, "a wave left ", sum.nodes[rank].size(),
                         " sums of ", sum.parameter->name);
            if (!sum.nodes[rank].empty())
                ranks[static_cast<int>(rank)] = std::move(sum.nodes[rank][0]);
            sum.nodes[rank].clear();
        }
        experts.push_back(&sum);
        news.push_back(sum_tree(ranks, 0, mesh_.expert_sources()));
        MemoryPurpose purpose("gradients");
        if (!news.back().defined())
            news.back() = Tensor::empty(sum.parameter->value.shape(), DType::f32);
    }
    if (mesh_.expert_data() > 1) reduce_(wave, news);
    for (size_t i = 0; i < experts.size(); ++i) add_to(experts[i]->waves, std::move(news[i]));
}

void GradAccumulator::finish() {
    for (Sum& sum : sums_) {
        Tensor& grad = sum.parameter->grads[sum.use];
        if (by_replica(*sum.parameter)) {
            grad = sum_tree(sum.replicas, 0, plan_.order().replicas);
        } else if (is_whole(*sum.parameter)) {
            grad = std::move(sum.waves);
        } else if (!sum.nodes[0].empty()) {
            FUCINA_CHECK(sum.nodes[0].size() == 1, sum.nodes[0].size(),
                         " partial sums were never added");
            grad = std::move(sum.nodes[0][0]);
        }
    }
    sums_.clear();
}

}  // namespace fucina
