#include "trainer/grad_accumulator.h"

#include <utility>

#include "kernels/error.h"
#include "kernels/grid_sum.h"
#include "kernels/optimizer.h"

namespace fucina {

namespace {

// to += from, where there is one yet.
void add_to(const Exec& exec, Tensor& to, Tensor from) {
    if (to.defined())
        ops::add_in_place(exec, to, from);
    else
        to = std::move(from);
}

// The sum of [begin, begin + count) along their tree, halved from the top; those that are absent
// are skipped, as adding zeros would turn -0 into +0.
Tensor sum_tree(const Exec& exec, std::map<int, Tensor>& sums, int begin, int count) {
    if (count == 1) {
        const auto found = sums.find(begin);
        return found == sums.end() ? Tensor() : std::move(found->second);
    }
    const int half = (count + 1) / 2;
    Tensor first = sum_tree(exec, sums, begin, half);
    Tensor second = sum_tree(exec, sums, begin + half, count - half);
    if (second.defined()) add_to(exec, first, std::move(second));
    return first;
}

}  // namespace

float grain_bound(const BatchPlan& plan) {
    return kGridRange / static_cast<float>(plan.grains());
}

bool sums_by_wave(const BatchPlan& plan, const MeshShape& mesh) {
    if (plan.order().integers) return false;
    return mesh.expert_sources() > 1 || (!plan.one_wave() && mesh.data > 1);
}

GradAccumulator::GradAccumulator(std::span<Parameter* const> parameters, const BatchPlan& plan,
                                 const MeshShape& mesh, GradReducer& reducer)
    : plan_(plan), mesh_(mesh), by_wave_(sums_by_wave(plan, mesh)), reducer_(reducer) {
    for (Parameter* parameter : parameters) {
        if (!parameter->trained) continue;
        first_[parameter] = sums_.size();
        const auto ranks = static_cast<size_t>(is_expert(*parameter) ? mesh.expert_sources() : 1);
        for (size_t use = 0; use < parameter->grads.size(); ++use)
            sums_.push_back({parameter, use, std::vector<std::vector<Tensor>>(ranks), {}, {}, {}});
    }
}

void GradAccumulator::begin_wave(size_t wave, bool together) {
    wave_ = wave;
    for (Sum& sum : sums_) sum.given = false;
    if (!exchanged(true)) return;
    reducer_.begin({.experts = true,
                    .others = last_wave(),
                    .experts_held = held(true),
                    .others_held = held(false),
                    .early = together,
                    .done = [this](Parameter& parameter, size_t use, Tensor sum) {
                        if (is_expert(parameter) && by_wave_)
                            add_to(parameter.exec, sum_of(parameter, use).waves, std::move(sum));
                        else
                            parameter.grads[use] = std::move(sum);
                    }});
}

// Of the ranks that have the same experts as we: whether those that share them out with it have
// grains of the wave. Of those that have the same of all else: whether they have any of the step.
std::vector<bool> GradAccumulator::held(bool experts) const {
    if (!experts || (!by_wave_ && mesh_.expert_sources() == 1)) {
        std::vector<bool> held;
        for (int rank = 0; rank < plan_.ranks(); ++rank) held.push_back(plan_.holds(rank));
        return held;
    }
    std::vector<bool> held(static_cast<size_t>(mesh_.expert_data()), false);
    for (int index = 0; index < mesh_.data; ++index)
        if (plan_.share(wave_, index).count() > 0)
            held[static_cast<size_t>(index / mesh_.expert_sources())] = true;
    return held;
}

void GradAccumulator::push(Sum& sum, size_t node, Tensor grad, int merges) {
    std::vector<Tensor>& nodes = sum.nodes[node];
    for (int i = 0; i < merges; ++i) {
        FUCINA_CHECK(!nodes.empty(), "a merge needs two sums");
        Tensor earlier = std::move(nodes.back());
        nodes.pop_back();
        ops::add_in_place(sum.parameter->exec, earlier, grad);
        grad = std::move(earlier);
    }
    nodes.push_back(std::move(grad));
}

// Whether nothing is added to the sum on this rank after that node of the micro-batch. Where this
// does not say so, end_wave() does.
bool GradAccumulator::is_last(const MicroBatch& micro_batch, const Sum& sum, size_t node) const {
    const bool experts = is_expert(*sum.parameter);
    const Pass& own = micro_batch.own;
    if (!micro_batch.last || own.wave != wave_ || !exchanged(experts)) return false;
    if (plan_.order().integers) return node + 1 == grains(micro_batch, experts);
    const std::vector<Pass>& of_ranks = micro_batch.of_ranks;
    const size_t nodes = experts && !of_ranks.empty() ? of_ranks.size()
                         : by_replica(*sum.parameter) ? static_cast<size_t>(own.grains.count())
                                                      : 1;
    return node + 1 == nodes;
}

void GradAccumulator::take(const MicroBatch& micro_batch, Parameter& parameter, size_t use,
                           size_t node) {
    Sum& sum = sum_of(parameter, use);
    const Pass& own = micro_batch.own;
    Tensor grad = std::exchange(parameter.grads[use], {});
    const bool empty = own.grains.count() == 0 && micro_batch.of_ranks.empty();
    if (empty) {
        grad = {};
    } else if (plan_.order().integers) {
        add_grain(sum, std::move(grad));
    } else if (by_replica(parameter)) {
        const int64_t grain = own.grains.begin + static_cast<int64_t>(node);
        add_to(sum.parameter->exec, sum.replicas[plan_.replica(own.wave, grain)], std::move(grad));
    } else if (!is_expert(parameter) || micro_batch.of_ranks.empty()) {
        const bool joins = own.ends_wave && own.wave > 0 && !by_wave_;
        push(sum, 0, std::move(grad), own.merges + (joins ? 1 : 0));
    } else if (const Pass& pass = micro_batch.of_ranks[node]; pass.grains.count() > 0) {
        push(sum, node, std::move(grad), pass.merges);
    }
    if (is_last(micro_batch, sum, node)) give(sum);
}

// Of the micro-batch, those of this rank, or of all ranks that share the experts out.
size_t GradAccumulator::grains(const MicroBatch& micro_batch, bool experts) {
    int64_t grains = micro_batch.own.grains.count();
    if (experts && !micro_batch.of_ranks.empty()) {
        grains = 0;
        for (const Pass& pass : micro_batch.of_ranks) grains += pass.grains.count();
    }
    return static_cast<size_t>(grains);
}

void GradAccumulator::add_grain(Sum& sum, Tensor grad) {
    const float bound = grain_bound(plan_);
    bool inside = false;
    if (sum.integers.defined()) {
        inside = ops::add_on_grid(sum.parameter->exec, sum.integers, grad, bound);
    } else {
        MemoryPurpose purpose("gradients");
        sum.integers = sum.parameter->exec.empty(grad.shape(), DType::i64);
        inside = ops::set_on_grid(sum.parameter->exec, sum.integers, grad, bound);
    }
    if (!inside && outside_.empty()) outside_ = sum.parameter->name;
}

// What this rank has of a sum, or those that share the experts out with it.
Tensor GradAccumulator::own_sum(Sum& sum) {
    if (plan_.order().integers) return std::exchange(sum.integers, {});
    if (by_replica(*sum.parameter))
        return sum_tree(sum.parameter->exec, sum.replicas, 0, plan_.order().replicas);
    std::map<int, Tensor> ranks;
    for (size_t rank = 0; rank < sum.nodes.size(); ++rank) {
        FUCINA_CHECK(sum.nodes[rank].size() <= 1, sum.nodes[rank].size(), " partial sums of ",
                     sum.parameter->name, " were never added");
        if (!sum.nodes[rank].empty()) ranks[static_cast<int>(rank)] = std::move(sum.nodes[rank][0]);
        sum.nodes[rank].clear();
    }
    return sum_tree(sum.parameter->exec, ranks, 0, static_cast<int>(sum.nodes.size()));
}

void GradAccumulator::give(Sum& sum) {
    sum.given = true;
    reducer_.add(*sum.parameter, sum.use, own_sum(sum));
}

void GradAccumulator::end_wave() {
    if (!exchanged(true)) return;
    for (Sum& sum : sums_)
        if (!sum.given && sum.parameter->makes(sum.use) && exchanged(is_expert(*sum.parameter)))
            give(sum);
    reducer_.finish();
}

void GradAccumulator::finish() {
    for (Sum& sum : sums_)
        if (is_expert(*sum.parameter) && by_wave_)
            sum.parameter->grads[sum.use] = std::move(sum.waves);
    sums_.clear();
}

}  // namespace fucina
