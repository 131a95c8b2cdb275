#include "trainer/micro_batch_runner.h"

#include <algorithm>

namespace fucina {
namespace {

// What a stage takes from another: like the residual stream.
Tensor stream_of(const StagePass& pass, int64_t width) {
    return pass.context.activations(pass.context.stream_rows(), width);
}

}  // namespace

void MicroBatchRunner::begin(const Step& step, const Action& action) {
    const MicroBatch& micro_batch = step.micro_batches[static_cast<size_t>(action.micro_batch)];
    GradAccumulator& accumulator = step.accumulators[static_cast<size_t>(action.chunk)];
    PassOptions options = step.scales;
    options.expert_sums = micro_batch.expert_sums;
    options.grains_apart = micro_batch.grains_apart;
    options.weights_wait = schedule_ == Schedule::zero_bubble;
    options.grad_done = [&](Parameter& parameter, size_t use, size_t node) {
        accumulator.take(micro_batch, parameter, use, node);
    };
    if (pipeline_.size() > 1) options.between_blocks = [this] { link_.poll(); };
    UnderWay& made = under_way_[{action.micro_batch, action.chunk}];
    made.batch = step.batch(micro_batch.own);
    made.pass = model_.begin(action.chunk, made.batch, options);
}

void MicroBatchRunner::prepare(const Step& step, const Action& action) {
    if (action.kind == Action::forward) begin(step, action);
    if (action.kind == Action::weight_grads) return;
    MemoryPurpose purpose("activations");
    const StagePass& pass = *under_way_.at({action.micro_batch, action.chunk}).pass;
    const bool forward = action.kind == Action::forward;
    if (forward ? pass.stage.is_first() : pass.stage.is_last()) return;
    link_.expect(stream_of(pass, model_.spec().hidden_size), action.chunk,
                 forward ? StageLink::rows : StageLink::gradients);
}

void MicroBatchRunner::forward(const Action& action, StagePass& pass) {
    MemoryPurpose purpose("activations");
    pass.stage.expect_forward(pass.context);
    Tensor x;
    if (!pass.stage.is_first()) x = link_.received(action.chunk, StageLink::rows);
    x = model_.forward(pass, std::move(x));
    if (!pass.stage.is_last()) link_.send(x, action.chunk, StageLink::rows);
}

void MicroBatchRunner::backward(const Step& step, const Action& action, StagePass& pass) {
    MemoryPurpose purpose("activations");
    pass.stage.expect_backward(pass.context);
    Tensor dx;
    if (!pass.stage.is_last()) dx = link_.received(action.chunk, StageLink::gradients);
    dx = model_.backward(pass, std::move(dx));
    if (!pass.stage.is_first()) link_.send(dx, action.chunk, StageLink::gradients);
    step.report(pass.result());
}

void MicroBatchRunner::run(const Step& step, const Action& action) {
    const auto found = under_way_.find({action.micro_batch, action.chunk});
    StagePass& pass = *found->second.pass;
    if (action.kind == Action::forward) forward(action, pass);
    if (action.kind == Action::backward) backward(step, action, pass);
    if (action.kind == Action::weight_grads) model_.weight_grads(pass);
    if (action.kind == last_action(schedule_)) under_way_.erase(found);
}

// And begins the next one, if there is one.
void MicroBatchRunner::end_wave(const Step& step, const Action& action) {
    GradAccumulator& accumulator = step.accumulators[static_cast<size_t>(action.chunk)];
    const auto next = static_cast<size_t>(action.micro_batch) + 1;
    pipeline_.progress(Phase::reduce);
    accumulator.end_wave();
    if (next == step.micro_batches.size()) return;
    accumulator.begin_wave(step.micro_batches[next].own.wave, step.micro_batches[next].together);
}

void MicroBatchRunner::run(const Step& step) {
    const auto count = static_cast<int>(step.micro_batches.size());
    for (GradAccumulator& accumulator : step.accumulators)
        accumulator.begin_wave(0, step.micro_batches[0].together);
    const std::vector<Action> actions =
        schedule_actions(schedule_, pipeline_.size(), pipeline_.rank(), count, model_.chunks());
    const auto micro_batch_of = [&](const Action& action) -> const MicroBatch& {
        return step.micro_batches[static_cast<size_t>(action.micro_batch)];
    };
    const auto is_run = [&](const Action& action) { return !micro_batch_of(action).idle; };
    auto prepared = std::ranges::find_if(actions, is_run);
    if (prepared != actions.end()) prepare(step, *prepared);
    for (const Action& action : actions) {
        const MicroBatch& micro_batch = micro_batch_of(action);
        if (is_run(action)) {
            prepared = std::find_if(prepared + 1, actions.end(), is_run);
            if (prepared != actions.end()) prepare(step, *prepared);
            run(step, action);
        }
        if (action.kind == last_action(schedule_) && micro_batch.ends_wave) end_wave(step, action);
    }
    link_.finish();
}

}  // namespace fucina
