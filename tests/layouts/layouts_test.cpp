// Guards against a layout that trains another model than one rank does: in exact numerics loss,
// gradient norm, counts, router biases, weights and moments are the same to the last bit.
//
// Ranks are threads here; tests/trainer/test_exactness.py runs some layouts over MPI.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "parallel/thread_communicator.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"
#include "trainer/step_runner.h"

namespace fucina {
namespace {

constexpr int kSteps = 3;

using Overrides = std::vector<std::string>;

struct Ranks {
    int ranks = 1, expert = 1;
    Overrides more = {};

    std::string name() const {
        std::string text = concat(ranks, " ranks, experts over ", expert);
        for (const std::string& key : more) text += ", " + key;
        return text;
    }
};

// All that a run computes, whole tensors put together from the ranks' parts.
struct Trained {
    std::vector<StepResult> steps;
    std::map<std::string, std::vector<std::byte>> state;
};

void put_together(const TrainingRun& run, std::mutex& mutex, Trained& trained) {
    for (const NamedTensor& part : run.state()) {
        const int64_t element = size_of(part.tensor.dtype());
        const Box whole = whole_box(part.shape());
        const std::lock_guard lock(mutex);
        std::vector<std::byte>& bytes = trained.state[part.kind + " " + part.name];
        bytes.resize(static_cast<size_t>(whole.size() * element));
        // Parts of several holders must agree.
        std::vector<std::byte> before(static_cast<size_t>(part.tensor.bytes()));
        copy_shared(part.box(), part.tensor.raw(), whole, bytes.data(), element);
        copy_shared(whole, bytes.data(), part.box(), before.data(), element);
        EXPECT_EQ(std::memcmp(before.data(), part.tensor.raw(), before.size()), 0);
    }
}

Trained train(const Ranks& layout, const Overrides& base) {
    const TemporaryDirectory scratch;
    test::TinyRun maker(scratch.path() / "run", scratch.path() / "ids.json",
                        test::random_documents({9, 21, 5, 16, 33, 7, 12, 18, 25, 4}, 37, 11));
    Overrides overrides = base;
    overrides.push_back(concat("parallel.expert=", layout.expert));
    overrides.insert(overrides.end(), layout.more.begin(), layout.more.end());
    Trained trained;
    std::mutex mutex;
    run_on_threads(layout.ranks, [&](Communicator& communicator) {
        std::unique_lock making(mutex);
        making.unlock();
        TrainingRun run = maker.build(communicator, overrides);
        StepRunner runner(run.recipe, {.mesh = *run.mesh,
                                       .model = *run.model,
                                       .optimizer = *run.optimizer,
                                       .loader = *run.data.train});
        for (int step = 1; step <= kSteps; ++step) {
            StepResult result = runner.run(step, (step - 1) * run.recipe.train().global_batch());
            if (communicator.rank() == communicator.size() - 1)
                trained.steps.push_back(std::move(result));
        }
        put_together(run, mutex, trained);
    });
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
        EXPECT_EQ(a.expert_counts, b.expert_counts) << step;
    }
    ASSERT_EQ(got.state.size(), expected.state.size());
    for (const auto& [name, bytes] : expected.state) EXPECT_EQ(got.state.at(name), bytes) << name;
}

// A model with MTP, all losses, and a batch; each is trained by one rank and then by every layout.
struct Task {
    const char* name;
    Overrides keys;
};

const std::vector<Task> kTasks{
    {"fp32", {"train.precision=fp32"}},
    {"bf16", {"train.precision=bf16"}},
    {"tied", {"train.precision=bf16", "model.tie_word_embeddings=true"}},
    {"waves", {"train.precision=bf16", "exact.replicas=4"}},
    {"uneven", {"train.precision=bf16", "train.global_batch=7", "exact.replicas=4"}},
    {"few", {"train.precision=bf16", "train.global_batch=3"}},
};

std::vector<Ranks> layouts() {
    const Overrides one_by_one{"train.micro_batch=1", "train.merge_passes=false"};
    std::vector<Ranks> all;
    for (const auto& [ranks, expert] : {std::pair{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}})
        for (const Overrides& passes : {Overrides{}, one_by_one})
            all.push_back({ranks, expert, passes});
    all.push_back({1, 1, one_by_one});
    all.push_back({4, 2, {"train.recompute=block"}});
    all.push_back({2, 2, {"train.recompute=block", "train.micro_batch=1"}});
    all.push_back({4, 4, {"train.recompute=mla_up"}});
    return all;
}

class Layouts : public testing::TestWithParam<Task> {};
INSTANTIATE_TEST_SUITE_P(Tasks, Layouts, testing::ValuesIn(kTasks),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Layouts, TrainTheSameModel) {
    Overrides base{"model.num_attention_heads=4",
                   "model.num_key_value_heads=4",
                   "model.vocab_size=40",
                   "train.steps=3",
                   "train.global_batch=8",
                   "train.micro_batch=4",
                   "train.mtp_loss=0.3",
                   "train.balance_loss=0.01",
                   "train.router_bias_update=0.01",
                   "train.clip_norm=0.5"};
    base.insert(base.end(), GetParam().keys.begin(), GetParam().keys.end());
    const Trained expected = train({}, base);
    EXPECT_GT(expected.steps.back().grad_norm, 0.5) << "clipping takes no part";
    EXPECT_GT(expected.steps.back().mtp_loss, 0);
    EXPECT_GT(expected.steps.back().balance_loss, 0);
    for (const Ranks& layout : layouts()) {
        SCOPED_TRACE(layout.name());
        expect_same(train(layout, base), expected);
    }
}

}  // namespace
}  // namespace fucina
