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

int64_t count_grains(const Recipe& recipe) {
    const int64_t grain = recipe.exact().grain();
    return (recipe.train().global_batch() + grain - 1) / grain;
}

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
      grains_(count_grains(recipe)),
      shares_(share_grains(grains_, parts.communicator.size())),
      own_(shares_[static_cast<size_t>(parts.communicator.rank())]),
      memory_(plan_memory(recipe, parts.model, own_, parts.communicator.size(),
                          [&](int64_t sample) { return parts.loader.tokens(sample); })),
      reducer_(parts.communicator),
      prefetcher_(parts.loader) {}

PackedSequences StepRunner::load(int64_t first_sample) {
    const int64_t grain = recipe_.exact().grain(), batch = recipe_.train().global_batch();
    const int64_t begin = std::min(own_.begin * grain, batch);
    const int64_t count = std::min(own_.end * grain, batch) - begin;
    if (count == 0) return {};
    PackedSequences own = prefetcher_.load(first_sample + begin, count);
    prefetcher_.prefetch(first_sample + batch + begin, count);
    return own;
}

void StepRunner::run_passes(const PackedSequences& own, const PassOptions& scales, Sums& sums) {
    const int64_t grain = recipe_.exact().grain();
    GradAccumulator accumulator(parts_.model.parameters());
    PassOptions options = scales;
    options.grad_done = [&](Parameter& parameter, size_t use) { accumulator.take(parameter, use); };
    for (const Pass& pass : memory_.passes) {
        const int64_t begin = (pass.grains.begin - own_.begin) * grain;
        const int64_t end = std::min((pass.grains.end - own_.begin) * grain, own.sequences());
        accumulator.begin_pass(pass.merges);
        const PassResult result =
            parts_.model.forward_backward(make_pass_batch(own, begin, end, grain), options);
        fault_point("step.backward", parts_.communicator.rank());
        sums.add(result);
        accumulator.end_pass();
    }
    accumulator.finish();
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
    reducer_.reduce(trained_grads(parts_.model.parameters()), shares_);

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
