// Guards against a resume that is not the run it goes on with: another place in the data, another
// count of updates, other moments; and against good checkpoints taken for damaged ones.
#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <set>

#include "parallel/thread_communicator.h"
#include "tests/support/crash_disk.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"
#include "trainer/evaluator.h"
#include "trainer/manifest.h"
#include "trainer/pass_batch.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using Overrides = std::vector<std::string>;

class ResumeTest : public testing::Test {
  protected:
    // Ids from 2 to 35: 1 ends a text, 36 stands nowhere.
    static std::vector<std::vector<int32_t>> documents() {
        auto all = test::random_documents(
            {8, 5, 8, 3, 8, 8, 7, 8, 8, 4, 8, 8, 6, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8}, 34, 1);
        for (auto& document : all) {
            for (int32_t& id : document) id += 2;
        }
        return all;
    }
    TrainingRun resume(const Overrides& overrides = {}) { return run_.resume(*self_, overrides); }
    fs::path checkpoint(int64_t step) const { return checkpoint_directory(run_.path(), step); }
    Manifest manifest(int64_t step) const { return read_manifest(checkpoint(step)); }
    StepRunner runner(TrainingRun& run) {
        return StepRunner(run.recipe, {.mesh = *run.mesh,
                                       .model = *run.model,
                                       .optimizer = *run.optimizer,
                                       .loader = *run.data.train});
    }
    std::set<std::string> names() const {
        std::set<std::string> names;
        for (const auto& entry : fs::directory_iterator(run_.path() / "checkpoints")) {
            names.insert(entry.path().filename().string());
        }
        return names;
    }
    // A byte of the payload of the step's first shard.
    void flip(int64_t step) const {
        const Manifest saved = manifest(step);
        const fs::path path = checkpoint(step) / saved.files(0).name();
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        const int64_t at = saved.tensors(1).boxes(0).byte_offset();
        file.seekg(at);
        const auto byte = static_cast<char>(file.get() ^ 1);
        file.seekp(at);
        file.put(byte);
    }
    void rewrite(int64_t step, const std::function<void(Manifest&)>& change) const {
        Manifest changed = manifest(step);
        change(changed);
        write_text_file(checkpoint(step) / kManifestName, frame_manifest(changed));
    }

    TemporaryDirectory work_;
    test::TinyRun run_{work_.path() / "run", work_.path() / "ids.json", documents()};
    const std::unique_ptr<Communicator> self_ = make_self_communicator();
};

TEST_F(ResumeTest, AnotherGlobalBatchBeginsAtTheSavedSample) {
    run_.train({"train.steps=3"});
    EXPECT_EQ(manifest(3).next_sample(), 12);
    TrainingRun by_hand = resume({"train.global_batch=3", "train.steps=5"});
    EXPECT_EQ(by_hand.next_sample, 12);
    by_hand.directory.reset();
    StepRunner hand = runner(by_hand);
    const StepResult fourth = hand.run(4, 12), fifth = hand.run(5, 15);
    run_.go_on({"train.global_batch=3", "train.steps=5"});
    EXPECT_EQ(manifest(5).next_sample(), 18);
    const auto lines = read_metrics((run_.path() / "metrics.jsonl").string());
    ASSERT_EQ(lines.size(), 5u);
    EXPECT_EQ(lines[3].loss, fourth.loss);
    EXPECT_EQ(lines[4].loss, fifth.loss);
    EXPECT_EQ(lines[4].tokens, fifth.tokens);
    EXPECT_EQ(test::difference(by_hand, resume()), "");
}

TEST_F(ResumeTest, ASkippedStepIsNoUpdate) {
    // Id 36 stands in the sixth document only, and its row of the embedding is not a number: the
    // step that meets it is skipped.
    auto poisoned = documents();
    poisoned[5][2] = 36;
    test::TinyRun run(work_.path() / "poisoned", work_.path() / "poisoned.json", poisoned);
    run.base = {"train.global_batch=2", "checkpoint.every=4", "train.steps=8"};
    TrainingRun fresh = run.build(*self_, {});
    for (Parameter* parameter : fresh.model->parameters()) {
        if (parameter->name == "embedding") parameter->value.row<float>(36)[3] = std::nanf("");
    }
    fresh.model->repack();
    Console silent(false);
    Trainer(std::move(fresh), silent).train();
    const Manifest middle = read_manifest(checkpoint_directory(run.path(), 4));
    EXPECT_EQ(middle.step(), 4);
    EXPECT_EQ(middle.updates(), 3) << "the step with document 5 was to be skipped";
    TrainingRun whole = run.resume(*self_, {});
    EXPECT_EQ(whole.optimizer->updates(), 7);
    whole.directory.reset();
    fs::rename(checkpoint_directory(run.path(), 8), work_.path() / "later");
    run.go_on({});
    EXPECT_EQ(test::difference(whole, run.resume(*self_, {})), "");
}

TEST_F(ResumeTest, BringsBackMomentsUpdatesAndPlace) {
    for (const char* moments : {"fp32", "bf16"}) {
        test::TinyRun made(work_.path() / moments, work_.path() / "ids.json", documents());
        made.base = {concat("train.moments=", moments)};
        TrainingRun run = made.build(*self_, {});
        StepRunner first = runner(run);
        for (int64_t step = 1; step <= 3; ++step) first.run(step, 4 * (step - 1));
        const auto state = run.state();
        SaveRequest request{.run_dir = made.path(), .manifest = {}, .tensors = state};
        request.manifest.set_step(3);
        request.manifest.set_updates(run.optimizer->updates());
        request.manifest.set_next_sample(12);
        request.manifest.set_model_config(run.model->spec().to_config().dump());
        *request.manifest.mutable_recipe() = run.recipe;
        ASSERT_EQ(save_checkpoint(*self_, request).problem, "");
        run.directory.reset();
        TrainingRun resumed = made.resume(*self_, {});
        EXPECT_EQ(test::difference(run, resumed), "") << moments;
        EXPECT_EQ(resumed.step, 3);
        EXPECT_EQ(resumed.next_sample, 12);
        for (const Optimizer::State& moment : resumed.optimizer->states()) {
            EXPECT_TRUE(moment.m.defined() && moment.v.defined());
        }
        StepRunner second = runner(resumed);
        const StepResult a = first.run(4, 12), b = second.run(4, 12);
        EXPECT_EQ(a.loss, b.loss);
        EXPECT_EQ(test::difference(run, resumed), "") << "a step later, " << moments;
    }
}

// Ranks hold different numbers of tokens and labels; the mean is over all of them.
TEST_F(ResumeTest, LossIsTheMeanOverTheTokensOfAllRanks) {
    double expected = 0;
    for (const int ranks : {1, 2, 4}) {
        run_on_threads(ranks, [&](Communicator& communicator) {
            test::TinyRun made(work_.path() / concat("ranks-", ranks), work_.path() / "ids.json",
                               documents());
            TrainingRun run = made.build(communicator, {});
            StepRunner runner(run.recipe, {.mesh = *run.mesh,
                                           .model = *run.model,
                                           .optimizer = *run.optimizer,
                                           .loader = *run.data.train});
            const PackedSequences batch = run.data.train->load(0, 4);
            // By hand: every sequence alone, weighted with its labels.
            double sum = 0;
            for (int64_t i = 0; i < 4; ++i) {
                const PackedSequences one = run.data.train->load(i, 1);
                const TokenBatch tokens = make_pass_batch(one, 0, 1, 1);
                sum += run.model->evaluate(tokens).loss.value();
            }
            const StepResult result = runner.run(1, 0);
            EXPECT_EQ(result.tokens, batch.tokens());
            EXPECT_NEAR(result.loss, sum / static_cast<double>(batch.label_count()), 1e-9);
            if (communicator.rank() == 0 && ranks == 1) expected = result.loss;
            EXPECT_EQ(result.loss, ranks == 1 ? result.loss : expected);
        });
    }
}

// The same documents, one to a sequence and several to a sequence: attention, positions and labels
// stay within each.
TEST_F(ResumeTest, PackedDocumentsCostWhatTheyCostAlone) {
    const auto lists = test::random_documents({3, 5, 2, 7, 6, 4, 7, 2}, 37, 9);
    auto store = std::make_shared<TokenStore>(TokenStore::from_lists(lists, 37, "lists"));
    Model model = test::tiny_model(test::tiny_spec(), {});
    LoaderOptions options;
    options.shuffle = false;
    std::vector<double> losses;
    for (const int64_t length : {7, 16, 64}) {
        options.sequence_length = length;
        const BatchLoader loader({{store, 1.0}}, options);
        EXPECT_TRUE(length < 64 || loader.source(0).sequences() == 1);
        losses.push_back(evaluate_loss(Mesh(*self_, {}), model, loader, 3).nats_per_token);
    }
    EXPECT_NEAR(losses[0], losses[1], 1e-6);
    EXPECT_NEAR(losses[0], losses[2], 1e-6);
}

TEST_F(ResumeTest, AnotherOrderOfTheDataIsRefusedOrBeginsAnew) {
    const std::string one = (work_.path() / "ids.json").string();
    const std::string two = (work_.path() / "two.json").string();
    std::ofstream(two) << "[[5, 6, 7, 8], [9, 10]]";
    const auto source = [](const std::string& path, double weight) {
        return concat("{path = \"", path, "\", weight = ", weight, "}");
    };
    run_.train(
        {"data.shuffle=true", concat("data.train=[", source(one, 3), ", ", source(two, 1), "]")});
    const auto before = names();
    for (const auto& [change, words] : std::vector<std::pair<std::string, std::string>>{
             {"train.seed=7", "train.seed was 0 and is now 7"},
             {"data.shuffle=false", "data.shuffle was true and is now false"},
             {concat("data.train=[", source(one, 2), ", ", source(two, 1), "]"), "weight"},
             {concat("data.train=[", source(one, 3), "]"), "was 2 and is now 1"},
             {concat("data.train=[", source(one, 3), ", ", source(two, 1), ", ", source(two, 1),
                     "]"),
              "was 2 and is now 3"},
             {concat("data.train=[", source(two, 3), ", ", source(one, 1), "]"), "two.json"}}) {
        const std::string text = message_of(ExitCode::usage, [&] { resume({change}); });
        EXPECT_CONTAINS(text, words);
        EXPECT_CONTAINS(text, "--set data.restart=true");
        EXPECT_EQ(text.find('\n'), std::string::npos);
        EXPECT_EQ(names(), before);
        const TrainingRun anew = resume({change, "data.restart=true"});
        EXPECT_EQ(anew.next_sample, 0) << change;
        EXPECT_EQ(anew.step, 3);
        EXPECT_FALSE(anew.recipe.data().has_restart()) << "for one resume only";
    }
    // The same shares by other weights, and a seed that orders nothing, are no change.
    EXPECT_EQ(
        resume({concat("data.train=[", source(one, 6), ", ", source(two, 2), "]")}).next_sample,
        12);
    run_.go_on({"train.seed=7", "data.restart=true", "train.steps=4"});
    EXPECT_EQ(manifest(4).next_sample(), 4);
    EXPECT_EQ(manifest(4).order().seed(), 7);
    EXPECT_EQ(resume().next_sample, 4) << "and goes on from there";
    std::ofstream(two) << "[[5, 6, 7, 8], [9, 11]]";
    EXPECT_CONTAINS(message_of(ExitCode::data, [&] { resume(); }), "two.json: its tokens hash to");
    EXPECT_EQ(resume({"data.restart=true"}).next_sample, 0);
}

TEST_F(ResumeTest, WhatCannotBeReadIsNoDamage) {
    run_.train({"train.steps=2", "checkpoint.every=1"});
    const auto before = names();
    ASSERT_EQ(before.size(), 2u);
    for (const int number : {EIO, EMFILE, EACCES, ENOMEM}) {
        bool all_made = false;
        for (int64_t nth = 0; !all_made; nth += 1 + nth / 8) {
            test::CrashDisk disk(work_.path());
            all_made = true;
            int64_t reads = 0;
            disk.fails = [&](FileCall call, const fs::path& path, int64_t) {
                const bool counts =
                    call == FileCall::read && path.string().find("step-") != std::string::npos;
                if (!counts || reads++ != nth) return 0;
                all_made = false;
                return number;
            };
            if (nth > 400) break;
            try {
                EXPECT_EQ(resume().step, 2);
                EXPECT_TRUE(all_made);
            } catch (const Error& error) {
                EXPECT_FALSE(all_made);
                EXPECT_EQ(error.code(), number == EACCES ? ExitCode::data : ExitCode::storage);
                EXPECT_CONTAINS(error.what(), "step-00000002");
                EXPECT_CONTAINS(error.what(), std::strerror(number));
            }
            ASSERT_EQ(names(), before) << number << ", read " << nth;
        }
        EXPECT_TRUE(all_made) << "so many reads?";
    }
    EXPECT_EQ(resume().step, 2);
}

TEST_F(ResumeTest, WhatDoesNotFitIsNoDamage) {
    run_.train({"train.steps=2", "checkpoint.every=1"});
    const auto before = names();
    const Manifest good = manifest(2);
    const auto refused = [&](const std::function<void(Manifest&)>& change) {
        rewrite(2, change);
        const std::string text = message_of(ExitCode::data, [&] { resume(); });
        EXPECT_EQ(names(), before);
        write_text_file(checkpoint(2) / kManifestName, frame_manifest(good));
        return text;
    };
    const auto first = [](Manifest& m) { return m.mutable_tensors(1); };
    EXPECT_CONTAINS(refused([&](Manifest& m) { first(m)->set_name("renamed.weight"); }),
                    "has no weight " + good.tensors(1).name());
    EXPECT_CONTAINS(refused([&](Manifest& m) { first(m)->set_kind("momentum"); }), "unknown kind");
    EXPECT_CONTAINS(refused([&](Manifest& m) { first(m)->set_dtype("F8"); }), "dtype F8");
    // Even where a file is damaged too: names and shapes are looked at first.
    flip(2);
    EXPECT_CONTAINS(refused([&](Manifest& m) { first(m)->set_name("renamed.weight"); }),
                    "has no weight");
    const std::string newer = frame_manifest(good);
    std::string body = newer;
    body[8] = 2;  // another version, with its checksum
    write_text_file(checkpoint(2) / kManifestName, body);
    EXPECT_EQ(resume().step, 1) << "a flipped bit is damage";
    EXPECT_TRUE(names().contains("step-00000002.damaged"));
}

TEST_F(ResumeTest, DamagedOnesAreSetAsideAndNothingIsLost) {
    run_.train({"train.steps=4", "checkpoint.every=1"});
    fs::create_directory(checkpoint(4).string() + ".damaged");
    std::ofstream(checkpoint(4).string() + ".damaged/kept") << "mine";
    flip(4);
    write_text_file(checkpoint(3) / kManifestName, "no manifest");
    // A resume that is refused touches nothing.
    const auto before = names();
    message_of(ExitCode::usage, [&] { resume({"model.hidden_size=48"}); });
    EXPECT_EQ(names(), before);
    EXPECT_EQ(resume().step, 2);
    EXPECT_EQ(names(),
              (std::set<std::string>{"step-00000001", "step-00000002", "step-00000003.damaged",
                                     "step-00000004.damaged", "step-00000004.damaged-2"}));
    EXPECT_EQ(read_text_file(checkpoint(4).string() + ".damaged/kept", 99), "mine");
    flip(1);
    flip(2);
    const auto left = names();
    EXPECT_CONTAINS(message_of(ExitCode::no_checkpoint, [&] { resume(); }), "--fresh");
    EXPECT_EQ(names(), left) << "nothing to go on from: nothing is touched";
}

TEST_F(ResumeTest, KeepCountsValidCheckpoints) {
    run_.train({"train.steps=4", "checkpoint.every=2"});
    for (const int64_t step : {8, 9}) fs::copy(checkpoint(4), checkpoint(step));
    const auto shard = [&](int64_t step) { return checkpoint(step) / shard_name(0, 1); };
    fs::resize_file(shard(8), 100);
    fs::remove(checkpoint(9) / kManifestName);
    SaveRequest request{.run_dir = run_.path(), .manifest = {}, .tensors = {}, .keep = 2};
    request.manifest.set_step(5);
    ASSERT_EQ(save_checkpoint(*self_, request).problem, "");
    EXPECT_EQ(names(), (std::set<std::string>{"step-00000004", "step-00000005", "step-00000008",
                                              "step-00000009"}));
}

TEST_F(ResumeTest, AListThatCannotBeReadIsNoEmptyRun) {
    run_.train({"train.steps=1"});
    fs::rename(run_.path() / "checkpoints", work_.path() / "elsewhere");
    std::ofstream(run_.path() / "checkpoints") << "a file";
    EXPECT_CONTAINS(message_of(ExitCode::data, [&] { resume(); }), "cannot list");
    fs::remove(run_.path() / "checkpoints");
    fs::create_directory_symlink(work_.path() / "elsewhere", run_.path() / "checkpoints");
    fs::create_directory_symlink(run_.path(), work_.path() / "link");
    EXPECT_EQ(run_.resume(*self_, {}, work_.path() / "link").step, 1) << "links may stand there";
}

}  // namespace
}  // namespace fucina
