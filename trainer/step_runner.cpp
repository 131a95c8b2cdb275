#include "trainer/step_runner.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/error.h"
#include "parallel/agreement.h"
#include "parallel/shared_uses.h"
#include "trainer/fault_point.h"
#include "trainer/grad_accumulator.h"
#include "trainer/pass_batch.h"
#include "trainer/schedule.h"

namespace fucina {

// What the step's passes add up to, in whatever order and on whatever rank.
struct StepRunner::Sums {
    // losses: whether they are this rank's to add; tensor-parallel ranks have the same ones.
    void add(const PassResult& pass, bool losses) {
        if (losses) loss.add(pass.loss);
        if (losses) mtp.add(pass.mtp_loss);
        balance.add(pass.balance);
        dropped[0] += pass.dropped;
        for (size_t l = 0; l < pass.expert_counts.size(); ++l)
            for (size_t e = 0; e < pass.expert_counts[l].size(); ++e)
                counts[l][e] += pass.expert_counts[l][e];
    }
    void all_reduce(Communicator& communicator) {
        for (ExactSum* sum : {&loss, &mtp, &balance}) communicator.all_reduce_sum(sum->words());
        for (auto& layer : counts) communicator.all_reduce_sum(layer);
        if (drops) communicator.all_reduce_sum(dropped);
    }

    bool drops = false;
    ExactSum loss, mtp, balance;
    std::array<int64_t, 1> dropped{};
    std::vector<std::vector<int64_t>> counts;  // [MoE layers][E]
};

namespace {

int64_t attention_pairs(const PackedSequences& packed) {
    int64_t pairs = 0;
    for (size_t i = 1; i < packed.cu_seqlens.size(); ++i) {
        const int64_t length = packed.cu_seqlens[i] - packed.cu_seqlens[i - 1];
        pairs += length * (length + 1) / 2;
    }
    return pairs;
}

double ratio(double sum, int64_t count) {
    return count == 0 ? 0 : sum / static_cast<double>(count);
}

// Of the latest stage that has any: backward begins there, and what is behind it may be outside for
// no other reason.
std::string first_outside(const Mesh& mesh, std::span<const GradAccumulator> accumulators) {
    std::string outside;
    std::vector<int64_t> latest{-1};
    for (size_t chunk = 0; chunk < accumulators.size(); ++chunk) {
        if (accumulators[chunk].outside().empty()) continue;
        outside = accumulators[chunk].outside();
        latest[0] = static_cast<int64_t>(chunk) * mesh.pipeline().size() + mesh.pipeline().rank();
    }
    const int64_t own = latest[0];
    mesh.world().all_reduce_max(latest);
    return first_text(mesh.world(), own == latest[0] ? outside : "");
}

// Ranks that exchange tokens or weights go through their passes together, so they cut them alike.
MemoryPlan agree_on_memory(const Recipe& recipe, const StepRunner::Parts& parts,
                           const BatchPlan& plan) {
    const auto tokens = [&](int64_t sample) { return parts.loader.tokens(sample); };
    const MeshShape& mesh = parts.mesh.shape();
    const int index = mesh.data_index(parts.mesh.rank());
    MemoryPlan own = plan_memory(recipe, parts.model, plan, index, tokens);
    const bool alone = mesh.ranks() == mesh.data && mesh.expert == 1;
    if (alone && !parts.model.options().weight_shards) return own;
    std::vector<int64_t> least{-own.pass_grains};
    parts.mesh.world().all_reduce_max(least);
    return plan_memory(recipe, parts.model, plan, index, tokens, -least[0]);
}

}  // namespace

StepRunner::StepRunner(const Recipe& recipe, const Parts& parts)
    : recipe_(recipe),
      parts_(parts),
      index_(parts.mesh.shape().data_index(parts.mesh.rank())),
      plan_(plan_batch(recipe, parts.mesh.shape().data)),
      memory_(agree_on_memory(recipe, parts, plan_)),
      micro_batches_(make_micro_batches(plan_, parts.mesh.shape(), index_, memory_.pass_grains,
                                        parts.model.options().weight_shards)),
      runner_(parts.model, parts.mesh.pipeline(), pipeline_schedule(recipe)),
      prefetcher_(parts.loader) {
    memory_.snapshot = parts.snapshot;
    for (int chunk = 0; chunk < parts.model.chunks(); ++chunk)
        reducers_.push_back(std::make_unique<GradReducer>(parts.mesh, parts.model.parameters(chunk),
                                                          reducer_options(recipe)));
}

std::vector<SampleRange> StepRunner::own_samples(int64_t first_sample) const {
    const int64_t grain = plan_.order().grain, batch = recipe_.train().global_batch();
    std::vector<SampleRange> ranges;
    for (const GrainRange share : plan_.shares(index_)) {
        const int64_t begin = share.begin * grain, end = std::min(share.end * grain, batch);
        if (begin < end) ranges.push_back({first_sample + begin, end - begin});
    }
    return ranges;
}

PackedSequences StepRunner::load(int64_t first_sample) {
    const std::vector<SampleRange> ranges = own_samples(first_sample);
    if (ranges.empty()) return {};
    PackedSequences own = prefetcher_.load(ranges);
    prefetcher_.prefetch(own_samples(first_sample + recipe_.train().global_batch()));
    return own;
}

TokenBatch StepRunner::batch_of(const Pass& pass, const PackedSequences& own) const {
    // Sequences of the earlier waves come first.
    int64_t before = 0;
    for (size_t wave = 0; wave < pass.wave; ++wave) before += plan_.share(wave, index_).count();
    before -= plan_.share(pass.wave, index_).begin;
    const int64_t grain = plan_.order().grain;
    const bool empty = pass.grains.count() == 0;
    const int64_t begin = empty ? 0 : (before + pass.grains.begin) * grain;
    const int64_t end = empty ? 0 : std::min((before + pass.grains.end) * grain, own.sequences());
    return make_pass_batch(own, begin, end, grain);
}

void StepRunner::run_passes(const PackedSequences& own, const PassOptions& scales, Sums& sums) {
    std::vector<GradAccumulator> accumulators;
    for (size_t chunk = 0; chunk < reducers_.size(); ++chunk)
        accumulators.emplace_back(parts_.model.parameters(static_cast<int>(chunk)), plan_,
                                  parts_.mesh.shape(), *reducers_[chunk]);
    runner_.run({.micro_batches = micro_batches_,
                 .batch =
                     [&](const Pass& pass) {
                         parts_.mesh.world().progress(Phase::forward_backward);
                         return batch_of(pass, own);
                     },
                 .scales = scales,
                 .accumulators = accumulators,
                 .report =
                     [&](const PassResult& result) {
                         sums.add(result, parts_.mesh.tensor().rank() == 0);
                         fault_point("step.backward", parts_.mesh.rank());
                     }});
    for (GradAccumulator& accumulator : accumulators) accumulator.finish();
    if (plan_.order().integers) outside_ = first_outside(parts_.mesh, accumulators);
    exchange_uses(parts_.mesh.pipeline(), parts_.model.parameters());
}

StepResult StepRunner::run(int64_t step, int64_t first_sample) {
    const Train& train = recipe_.train();
    const ModelSpec& spec = parts_.model.spec();
    const bool with_mtp = train.mtp_loss() > 0;
    const PackedSequences own = load(first_sample);
    // Losses are means over the whole batch, so the counts come first.
    const TokenBatch whole =
        with_mtp ? make_pass_batch(own, 0, own.sequences(), own.sequences() + 1) : TokenBatch();
    std::vector<int64_t> totals{own.label_count(), Model::count_mtp_labels(whole), own.tokens(),
                                attention_pairs(own)};
    parts_.mesh.data().all_reduce_sum(totals);

    Sums sums{.drops = train.expert_capacity() > 0};
    const int64_t moe_layers = spec.moe_layers() + (with_mtp && spec.is_moe(spec.layers) ? 1 : 0);
    sums.counts.assign(static_cast<size_t>(moe_layers),
                       std::vector<int64_t>(static_cast<size_t>(spec.moe.router.experts), 0));
    run_passes(own,
               {.loss_scale = ratio(1, totals[0]),
                .mtp_scale = ratio(train.mtp_loss(), totals[1]),
                .balance_scale = ratio(train.balance_loss(), train.global_batch()),
                .expert_capacity = train.expert_capacity()},
               sums);
    sums.all_reduce(parts_.mesh.world());

    StepResult result;
    // A batch that predicts nothing has no loss, and no update.
    result.loss = totals[0] > 0 ? ratio(sums.loss.value(), totals[0]) : std::nan("");
    result.mtp_loss = ratio(sums.mtp.value(), totals[1]);
    result.balance_loss = ratio(sums.balance.value(), train.global_batch());
    result.tokens = totals[2];
    result.pairs = totals[3];
    result.expert_counts = std::move(sums.counts);
    result.dropped = sums.dropped[0];
    result.outside = outside_;
    update(step, result);
    // The next backward makes them anew, in the room that activations leave.
    for (Parameter* parameter : parts_.model.parameters())
        for (Tensor& grad : parameter->grads) grad = {};
    return result;
}

void StepRunner::update(int64_t step, StepResult& result) {
    const Train& train = recipe_.train();
    parts_.mesh.world().progress(Phase::update);
    result.grad_norm = parts_.optimizer.join_and_norm();
    if (!result.outside.empty()) result.grad_norm = std::nan("");
    result.learning_rate = learning_rate(train, step);
    result.finite = std::isfinite(result.loss) && std::isfinite(result.mtp_loss) &&
                    std::isfinite(result.grad_norm);
    fault_point("step.update", parts_.mesh.rank());
    if (!result.finite) return;
    if (parts_.before_update) parts_.before_update();
    parts_.mesh.world().progress(Phase::update);
    parts_.optimizer.update(result.learning_rate, result.grad_norm);
    if (train.router_bias_update() > 0 && !result.expert_counts.empty()) {
        parts_.model.update_router_bias(result.expert_counts,
                                        static_cast<float>(train.router_bias_update()));
    }
}

}  // namespace fucina
