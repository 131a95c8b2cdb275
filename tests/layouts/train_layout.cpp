#include "tests/layouts/train_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>

#include "parallel/thread_communicator.h"
#include "tests/support/temporary_directory.h"

namespace fucina::test {
namespace {

struct Part {
    std::string name;
    Box whole, box;
    int64_t element;
    std::vector<std::byte> bytes;
};

std::vector<Part> parts_of(const TrainingRun& run) {
    std::vector<Part> parts;
    for (const NamedTensor& named : run.state()) {
        const Tensor values = on_host(named.exec, named.tensor);
        parts.push_back({named.kind + " " + named.name,
                         whole_box(named.shape()),
                         named.box(),
                         size_of(values.dtype()),
                         {values.raw(), values.raw() + values.bytes()}});
    }
    return parts;
}

// The whole tensors; what several ranks hold must be the same on all of them.
void put_together(const std::vector<Part>& parts, Trained& trained) {
    for (const Part& part : parts) {
        std::vector<std::byte>& whole = trained.state[part.name];
        whole.resize(static_cast<size_t>(part.whole.size() * part.element));
        copy_shared(part.box, part.bytes.data(), part.whole, whole.data(), part.element);
    }
    for (const Part& part : parts) {
        std::vector<std::byte> here(part.bytes.size());
        copy_shared(part.whole, trained.state[part.name].data(), part.box, here.data(),
                    part.element);
        EXPECT_EQ(here, part.bytes) << part.name << ": ranks hold other bits";
    }
}

}  // namespace

std::string Ranks::name() const {
    std::string text = concat(ranks, " ranks, experts over ", expert);
    for (const std::string& key : more) text += ", " + key;
    return text;
}

Trained train(const Ranks& layout, const Overrides& base, const Prepare& prepare, int steps) {
    const TemporaryDirectory scratch;
    TinyRun maker(scratch.path() / "run", scratch.path() / "ids.json",
                  random_documents({9, 21, 5, 16, 33, 7, 12, 18, 25, 4}, 37, 11));
    Overrides overrides = base;
    overrides.push_back(concat("parallel.expert=", layout.expert));
    overrides.insert(overrides.end(), layout.more.begin(), layout.more.end());
    const bool fast = std::ranges::count(base, "train.numerics=fast") > 0;
    if (fast) set_runtime(1, Numerics::fast);
    if (std::ranges::count(base, "exact.products=fma") > 0)
        set_runtime(1, Numerics::exact, ProductOrder::fma);
    Trained trained;
    std::mutex mutex;
    std::vector<Part> parts;
    run_on_threads(layout.ranks, [&](Communicator& communicator) {
        TrainingRun run = maker.build(communicator, overrides);
        if (prepare) {
            prepare(*run.model);
            run.model->repack();
        }
        StepRunner runner(run.recipe, {.mesh = *run.mesh,
                                       .model = *run.model,
                                       .optimizer = *run.optimizer,
                                       .loader = *run.data.train});
        for (int step = 1; step <= steps; ++step) {
            StepResult result = runner.run(step, (step - 1) * run.recipe.train().global_batch());
            if (communicator.rank() == communicator.size() - 1)
                trained.steps.push_back(std::move(result));
        }
        const std::lock_guard lock(mutex);
        for (Part& part : parts_of(run)) parts.push_back(std::move(part));
    });
    put_together(parts, trained);
    return trained;
}

void expect_same(const Trained& got, const Trained& expected) {
    for (size_t step = 0; step < kSteps; ++step) {
        const StepResult &a = got.steps[step], &b = expected.steps[step];
        EXPECT_EQ(a.loss, b.loss) << step;
        EXPECT_EQ(a.mtp_loss, b.mtp_loss) << step;
        EXPECT_EQ(a.balance_loss, b.balance_loss) << step;
        EXPECT_EQ(a.grad_norm, b.grad_norm) << step;
        EXPECT_EQ(a.tokens, b.tokens) << step;
        EXPECT_EQ(a.dropped, b.dropped) << step;
        EXPECT_EQ(a.expert_counts, b.expert_counts) << step;
    }
    ASSERT_EQ(got.state.size(), expected.state.size());
    for (const auto& [name, bytes] : expected.state) EXPECT_EQ(got.state.at(name), bytes) << name;
}

Overrides all_losses() {
    return {"model.num_attention_heads=4", "model.num_key_value_heads=4",
            "model.vocab_size=40",         "train.steps=3",
            "train.global_batch=8",        "train.micro_batch=4",
            "train.precision=bf16",        "train.mtp_loss=0.3",
            "train.balance_loss=0.01",     "train.router_bias_update=0.01",
            "train.clip_norm=0.5"};
}

Prepare starve(int64_t chosen) {
    return [chosen](Model& model) {
        for (Parameter* parameter : model.parameters()) {
            if (!parameter->name.ends_with("router_bias")) continue;
            float* bias = parameter->master().data<float>();
            for (int64_t e = chosen; e < parameter->master().size(); ++e) bias[e] = -100;
        }
    };
}

void make_ties(Model& model) {
    for (Parameter* parameter : model.parameters())
        if (parameter->name.ends_with("router")) parameter->master().zero();
}

}  // namespace fucina::test
