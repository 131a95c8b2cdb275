#include "trainer/micro_batch_runner.h"

namespace fucina {
namespace {

// What a stage takes from another: like the residual stream.
Tensor stream_of(const StagePass& pass, int64_t width) {
    return pass.context.activations(pass.context.stream_rows(), width);
}

}  // namespace

MicroBatchRunner::UnderWay& MicroBatchRunner::begin(const Step& step, const Action& action) {
    const MicroBatch& micro_batch = step.micro_batches[static_cast<size_t>(action.micro_batch)];
    GradAccumulator& accumulator = step.accumulators[static_cast<size_t>(action.chunk)];
    PassOptions options = step.scales;
    options.expert_sums = micro_batch.expert_sums;
    options.grains_apart = micro_batch.grains_apart;
    options.weights_wait = schedule_ == Schedule::zero_bubble;
    options.grad_done = [&](Parameter& parameter, size_t use, size_t node) {
        accumulator.take(micro_batch, parameter, use, node);
    };
    UnderWay& made = under_way_[{action.micro_batch, action.chunk}];
    made.batch = step.batch(micro_batch.own);
    made.pass = model_.begin(action.chunk, made.batch, options);
    return made;
}

void MicroBatchRunner::forward(const Step& step, const Action& action) {
    MemoryPurpose purpose("activations");
    StagePass& pass = *begin(step, action).pass;
    pass.stage.expect_forward(pass.context);
    Tensor x;
    if (!pass.stage.is_first()) {
        x = stream_of(pass, model_.spec().hidden_size);
        link_.receive(x, action.chunk, StageLink::rows);
    }
    x = model_.forward(pass, std::move(x));
    if (!pass.stage.is_last()) link_.send(x, action.chunk, StageLink::rows);
}

void MicroBatchRunner::backward(const Step& step, const Action& action, StagePass& pass) {
    MemoryPurpose purpose("activations");
    pass.stage.expect_backward(pass.context);
    Tensor dx;
    if (!pass.stage.is_last()) {
        dx = stream_of(pass, model_.spec().hidden_size);
        link_.receive(dx, action.chunk, StageLink::gradients);
    }
    dx = model_.backward(pass, std::move(dx));
    if (!pass.stage.is_first()) link_.send(dx, action.chunk, StageLink::gradients);
    step.report(pass.result());
}

void MicroBatchRunner::run(const Step& step, const Action& action) {
    if (action.kind == Action::forward) {
        forward(step, action);
        return;
    }
    const auto found = under_way_.find({action.micro_batch, action.chunk});
    StagePass& pass = *found->second.pass;
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
    for (const Action& action :
         schedule_actions(schedule_, pipeline_.size(), pipeline_.rank(), count, model_.chunks())) {
        const MicroBatch& micro_batch = step.micro_batches[static_cast<size_t>(action.micro_batch)];
        if (!micro_batch.idle) run(step, action);
        if (action.kind == last_action(schedule_) && micro_batch.ends_wave) end_wave(step, action);
    }
    link_.finish();
}

}  // namespace fucina
