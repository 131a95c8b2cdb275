// Guards against a run that changes when it goes on under another layout: every layout's checkpoint
// is resumed under every other, in the middle of an epoch, and the run is the one that nothing
// interrupted, to the last bit. And against a matrix that could not fail: with any part of the
// state brought back wrongly, the run is another.
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "parallel/thread_communicator.h"
#include "tests/layouts/train_layout.h"
#include "tests/support/temporary_directory.h"
#include "trainer/checkpoint_diff.h"
#include "trainer/manifest.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;
using test::Overrides;
using test::Ranks;

constexpr int64_t kSaved = 2, kLast = 5;  // steps

const std::vector<Ranks> kLayouts{
    {1, 1},
    {2, 1},
    {4, 1, {"parallel.zero=3", "train.micro_batch=2"}},
    {2, 2, {"parallel.dispatch_rows=1"}},
    {4, 4},
    {4, 2, {"parallel.zero=1"}},
    {8, 4, {"parallel.zero=2"}},
    {2, 2, {"parallel.tensor=2"}},
    {4, 2, {"parallel.tensor=2", "parallel.zero=3"}},
    {8, 8, {"parallel.tensor=4", "parallel.sequence=false"}},
    {2, 1, {"parallel.pipeline=2"}},
    {4, 2, {"parallel.pipeline=2", "parallel.schedule=interleaved", "parallel.zero=2"}},
    {8, 4, {"parallel.pipeline=2", "parallel.tensor=2", "parallel.schedule=zero_bubble"}},
    {3, 1, {"parallel.pipeline=3"}},
};

Overrides base() {
    Overrides keys = test::all_losses();
    for (const char* key :
         {"model.num_hidden_layers=4", "train.merge_passes=false", "data.shuffle=true",
          "train.schedule=cosine", "train.min_learning_rate=1e-4", "train.steps=5", "eval.every=0",
          "checkpoint.every=2"})
        keys.emplace_back(key);
    return keys;
}

Overrides keys_of(const Ranks& layout) {
    Overrides keys{concat("parallel.expert=", layout.expert),
                   "parallel.tensor=1",
                   "parallel.pipeline=1",
                   "parallel.zero=0",
                   "parallel.sequence=true",
                   "parallel.schedule=1f1b",
                   "parallel.dispatch_rows=0",
                   "train.micro_batch=4"};
    keys.insert(keys.end(), layout.more.begin(), layout.more.end());
    return keys;
}

// What is done to a run before it goes on.
using Change = std::function<void(TrainingRun& run)>;

class ResumeMatrix : public testing::Test {
  protected:
    // A run under `layout` in a directory of its own.
    fs::path train(const Ranks& layout, const Overrides& more = {}) {
        const fs::path path = scratch_.path() / concat("run-", runs_++);
        test::TinyRun maker(path, scratch_.path() / "ids.json", documents());
        Overrides overrides = base();
        const Overrides own = keys_of(layout);
        overrides.insert(overrides.end(), own.begin(), own.end());
        overrides.insert(overrides.end(), more.begin(), more.end());
        if (fast(more)) set_runtime(1, Numerics::fast);
        run_on_threads(layout.ranks, [&](Communicator& communicator) {
            go(maker.build(communicator, overrides));
        });
        return path;
    }
    // As if it had been killed in the step after the save.
    static void cut(const fs::path& run) {
        for (const fs::path& dir : list_checkpoints(run))
            if (dir != checkpoint_directory(run, kSaved)) fs::remove_all(dir);
    }
    // Goes on with a copy of the run under another layout, to the last step.
    fs::path resume(const fs::path& from, const Ranks& layout, const Overrides& more = {},
                    const Change& change = {}) {
        const fs::path path = scratch_.path() / concat("run-", runs_++);
        fs::copy(from, path, fs::copy_options::recursive);
        test::TinyRun maker(path, scratch_.path() / "ids.json", documents());
        Overrides overrides = keys_of(layout);
        overrides.insert(overrides.end(), more.begin(), more.end());
        if (fast(more)) set_runtime(1, Numerics::fast);
        run_on_threads(layout.ranks, [&](Communicator& communicator) {
            TrainingRun run = maker.resume(communicator, overrides);
            expect_unchanged(communicator, run, from, path);
            if (change) {
                change(run);
                run.model->repack();
            }
            go(std::move(run));
        });
        return path;
    }
    // What was loaded, saved again under this layout, is what was saved.
    void expect_unchanged(Communicator& communicator, const TrainingRun& run, const fs::path& from,
                          const fs::path& path) {
        SaveRequest request{.run_dir = path / "again",
                            .manifest = {},
                            .tensors = run.state(),
                            .mesh = run.mesh->shape()};
        request.manifest.set_step(run.step);
        if (communicator.rank() == 0) fs::create_directories(request.run_dir);
        ASSERT_EQ(save_checkpoint(communicator, std::move(request)).problem, "");
        if (communicator.rank() != 0) return;
        const CheckpointDiff diff =
            diff_checkpoints(CheckpointReader(checkpoint_directory(from, kSaved)),
                             CheckpointReader(checkpoint_directory(path / "again", kSaved)));
        EXPECT_TRUE(diff.tensors.empty()) << diff.tensors.front().name;
    }
    static void go(TrainingRun run) {
        Console silent(false);
        Trainer(std::move(run), silent).train();
    }
    static bool fast(const Overrides& keys) {
        return std::ranges::count(keys, "train.numerics=fast") > 0;
    }
    static std::vector<std::vector<int32_t>> documents() {
        return test::random_documents({9, 21, 5, 16, 33, 7, 12, 18, 25, 4}, 37, 11);
    }
    static std::vector<StepMetrics> curve(const fs::path& run) {
        return read_metrics((run / "metrics.jsonl").string());
    }
    static void expect_same_run(const fs::path& got, const fs::path& expected) {
        const auto a = curve(got), b = curve(expected);
        ASSERT_EQ(a.size(), static_cast<size_t>(kLast));
        for (size_t i = 0; i < a.size(); ++i) {
            EXPECT_EQ(a[i].loss, b[i].loss) << "step " << a[i].step;
            EXPECT_EQ(a[i].mtp_loss, b[i].mtp_loss) << "step " << a[i].step;
            EXPECT_EQ(a[i].balance_loss, b[i].balance_loss) << "step " << a[i].step;
            EXPECT_EQ(a[i].grad_norm, b[i].grad_norm) << "step " << a[i].step;
            EXPECT_EQ(a[i].lr, b[i].lr) << "step " << a[i].step;
            EXPECT_EQ(a[i].tokens, b[i].tokens) << "step " << a[i].step;
        }
        const CheckpointDiff diff =
            diff_checkpoints(CheckpointReader(checkpoint_directory(got, kLast)),
                             CheckpointReader(checkpoint_directory(expected, kLast)));
        for (const TensorDiff& tensor : diff.tensors)
            ADD_FAILURE() << tensor.kind << " " << tensor.name;
    }

  private:
    TemporaryDirectory scratch_;
    int runs_ = 0;
};

TEST_F(ResumeMatrix, EveryLayoutGoesOnWithEveryOther) {
    const fs::path whole = train({1, 1});
    for (const Ranks& before : kLayouts) {
        const fs::path half = train(before);
        expect_same_run(half, whole);
        cut(half);
        for (const Ranks& after : kLayouts) {
            SCOPED_TRACE(before.name() + ", then " + after.name());
            const fs::path got = resume(half, after);
            expect_same_run(got, whole);
            fs::remove_all(got);
        }
    }
}

// Steps 3 and 4 finish the epoch that the save is in the middle of; step 5 is of the next.
TEST_F(ResumeMatrix, TheSaveIsInTheMiddleOfAnEpoch) {
    const fs::path run = train({1, 1});
    cut(run);
    resume(run, {1, 1}, {}, [](TrainingRun& resumed) {
        const auto epoch = [&](int64_t sample) { return resumed.data.train->place(sample).epoch; };
        EXPECT_EQ(resumed.next_sample, 8 * kSaved);
        EXPECT_EQ(epoch(8 * kSaved - 1), epoch(8 * kSaved));
        EXPECT_LT(epoch(8 * kSaved), epoch(8 * kLast - 1));
    });
}

// What is brought back wrongly must be seen in the curve.
TEST_F(ResumeMatrix, EachPartOfTheStateMatters) {
    const fs::path whole = train({1, 1}), half = train({4, 2});
    cut(half);
    const auto first = [](TrainingRun& run, std::string_view kind, std::string_view name) {
        for (const NamedTensor& named : run.state())
            if (named.kind == kind && named.name.ends_with(name) && named.tensor.size() > 0)
                return named.tensor;
        ADD_FAILURE() << kind << " " << name;
        return Tensor();
    };
    const std::vector<std::pair<const char*, Change>> changes{
        {"a weight",
         [&](TrainingRun& run) { first(run, "weight", "kv_up").data<float>()[3] *= 1.5f; }},
        {"an expert", [&](TrainingRun& run) { first(run, "weight", "experts.down").zero(); }},
        {"a first moment", [&](TrainingRun& run) { first(run, "m", "kv_up").zero(); }},
        {"a second moment",
         [&](TrainingRun& run) { first(run, "v", "kv_up").data<float>()[3] *= 9; }},
        {"a router's bias",
         [&](TrainingRun& run) { first(run, "weight", "router_bias").data<float>()[0] += 1; }},
        {"the step", [](TrainingRun& run) { run.step += 1; }},
        {"the updates", [](TrainingRun& run) { run.optimizer->set_updates(kSaved - 1); }},
        {"the place in the data", [](TrainingRun& run) { run.next_sample += 1; }},
    };
    for (const auto& [what, change] : changes) {
        SCOPED_TRACE(what);
        const auto got = curve(resume(half, {2, 1}, {}, change)), expected = curve(whole);
        ASSERT_EQ(got.back().step, kLast);
        EXPECT_FALSE(got.back().loss == expected.back().loss &&
                     got.back().grad_norm == expected.back().grad_norm);
    }
}

// Fast sums have an order of each layout's own: the state comes back to the last bit, the curve as
// near as bf16 products let it.
TEST_F(ResumeMatrix, FastNumericsBringBackTheSameState) {
    const Overrides numerics{"train.numerics=fast"};
    const fs::path whole = train({1, 1}, numerics);
    for (const Ranks& before : {kLayouts[0], kLayouts[4], kLayouts[7], kLayouts[12]}) {
        const fs::path half = train(before, numerics);
        cut(half);
        for (const Ranks& after : {kLayouts[0], kLayouts[2], kLayouts[8], kLayouts[11]}) {
            SCOPED_TRACE(before.name() + ", then " + after.name());
            const auto got = curve(resume(half, after, numerics)), expected = curve(whole);
            ASSERT_EQ(got.size(), expected.size());
            for (size_t i = 0; i < got.size(); ++i)
                EXPECT_NEAR(got[i].loss, expected[i].loss, 0.01 * expected[i].loss) << i;
        }
    }
}

}  // namespace
}  // namespace fucina
