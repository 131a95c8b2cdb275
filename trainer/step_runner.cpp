#include "trainer/step_runner.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "trainer/fault_point.h"
#include "trainer/grad_accumulator.h"
#include "trainer/pass_batch.h"
#include "trainer/schedule.h"

namespace fucina {

// What the step's passes add up to, in whatever order and on whatever rank.
struct StepRunner::Sums {
    void add(const PassResult& pass) {
        loss.add(pass.loss);
        mtp.add(pass.mtp_loss);
        balance.add(pass.balance);
        for (size_t l = 0; l < pass.expert_counts.size(); ++l)
            for (size_t e = 0; e < pass.expert_counts[l].size(); ++e)
                counts[l][e] += pass.expert_counts[l][e];
    }
    void all_reduce(Communicator& communicator) {
        for (ExactSum* sum : {&loss, &mtp, &balance}) communicator.all_reduce_sum(sum->words());
        for (auto& layer : counts) communicator.all_reduce_sum(layer);
    }

    ExactSum loss, mtp, balance;
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

}  // namespace

StepRunner::StepRunner(const Recipe& recipe, const Parts& parts)
    : recipe_(recipe),
      parts_(parts),
      plan_(plan_batch(recipe, parts.communicator.size())),
      memory_(plan_memory(recipe, parts.model, plan_, parts.communicator.rank(),
                          [&](int64_t sample) { return parts.loader.tokens(sample); })),
      reducer_(parts.communicator),
      prefetcher_(parts.loader) {}

std::vector<SampleRange> StepRunner::own_samples(int64_t first_sample) const {
    const int64_t grain = plan_.order().grain, batch = recipe_.train().global_batch();
    std::vector<SampleRange> ranges;
    for (const GrainRange share : plan_.shares(parts_.communicator.rank())) {
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

void StepRunner::run_pass(const Pass& pass, const PackedSequences& own, const PassOptions& options,
                          Sums& sums) {
    parts_.communicator.progress(Phase::forward_backward);
    // Sequences of the earlier waves come first.
    int64_t before = 0;
    const int rank = parts_.communicator.rank();
    for (size_t wave = 0; wave < pass.wave; ++wave) before += plan_.share(wave, rank).count();
    before -= plan_.share(pass.wave, rank).begin;
    const int64_t grain = plan_.order().grain;
    const int64_t begin = (before + pass.grains.begin) * grain;
    const int64_t end = std::min((before + pass.grains.end) * grain, own.sequences());
    sums.add(parts_.model.forward_backward(make_pass_batch(own, begin, end, grain), options));
    fault_point("step.backward", rank);
}

void StepRunner::run_passes(const PackedSequences& own, const PassOptions& scales, Sums& sums) {
    const int ranks = plan_.ranks();
    const auto holders = [&](const auto& holds) {
        std::vector<bool> result;
        for (int rank = 0; rank < ranks; ++rank) result.push_back(holds(rank));
        return result;
    };
    GradAccumulator accumulator(
        parts_.model.parameters(), plan_, [&](size_t wave, std::span<const Tensor> wave_sums) {
            parts_.communicator.progress(Phase::reduce);
            reducer_.reduce(wave_sums,
                            holders([&](int rank) { return plan_.share(wave, rank).count() > 0; }));
        });
    PassOptions options = scales;
    options.grains_apart = !plan_.one_wave();
    options.grad_done = [&](Parameter& parameter, size_t use, size_t node) {
        accumulator.take(parameter, use, node);
    };
    auto pass = memory_.passes.begin();
    for (size_t wave = 0; wave < plan_.waves().size(); ++wave) {
        for (; pass != memory_.passes.end() && pass->wave == wave; ++pass) {
            accumulator.begin_pass(*pass);
            run_pass(*pass, own, options, sums);
            accumulator.end_pass();
        }
        accumulator.end_wave(wave);
    }
    accumulator.finish();
    parts_.communicator.progress(Phase::reduce);
    std::vector<Tensor> rest;  // that is not yet summed over ranks
    for (Parameter* parameter : parts_.model.parameters()) {
        if (!parameter->trained ||
            (accumulator.reduces_waves() && !accumulator.by_replica(*parameter)))
            continue;
        for (size_t use = 0; use < parameter->grads.size(); ++use)
            rest.push_back(parameter->grad(use));
    }
    reducer_.reduce(rest, holders([&](int rank) { return plan_.holds(rank); }));
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
    parts_.communicator.all_reduce_sum(totals);

    Sums sums;
    const int64_t moe_layers = spec.moe_layers() + (with_mtp && spec.is_moe(spec.layers) ? 1 : 0);
    sums.counts.assign(static_cast<size_t>(moe_layers),
                       std::vector<int64_t>(static_cast<size_t>(spec.moe.router.experts), 0));
    run_passes(own,
               {.loss_scale = ratio(1, totals[0]),
                .mtp_scale = ratio(train.mtp_loss(), totals[1]),
                .balance_scale = ratio(train.balance_loss(), train.global_batch())},
               sums);
    sums.all_reduce(parts_.communicator);

    StepResult result;
    // A batch that predicts nothing has no loss, and no update.
    result.loss = totals[0] > 0 ? ratio(sums.loss.value(), totals[0]) : std::nan("");
    result.mtp_loss = ratio(sums.mtp.value(), totals[1]);
    result.balance_loss = ratio(sums.balance.value(), train.global_batch());
    result.tokens = totals[2];
    result.pairs = totals[3];
    result.expert_counts = std::move(sums.counts);
    update(step, result);
    // The next backward makes them anew, in the room that activations leave.
    for (Parameter* parameter : parts_.model.parameters())
        for (Tensor& grad : parameter->grads) grad = {};
    return result;
}

void StepRunner::update(int64_t step, StepResult& result) {
    const Train& train = recipe_.train();
    parts_.communicator.progress(Phase::update);
    result.grad_norm = parts_.optimizer.join_and_norm();
    result.learning_rate = learning_rate(train, step);
    result.finite = std::isfinite(result.loss) && std::isfinite(result.mtp_loss) &&
                    std::isfinite(result.grad_norm);
    fault_point("step.update", parts_.communicator.rank());
    if (!result.finite) return;
    parts_.optimizer.update(result.learning_rate, result.grad_norm);
    if (train.router_bias_update() > 0 && !result.expert_counts.empty()) {
        parts_.model.update_router_bias(result.expert_counts,
                                        static_cast<float>(train.router_bias_update()));
    }
}

}  // namespace fucina
