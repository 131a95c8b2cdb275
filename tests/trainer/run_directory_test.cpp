// Guards against runs that overwrite each other, and against memory plans that merge passes at the
// price of more memory.
#include "trainer/run_directory.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "kernels/error.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_model.h"
#include "trainer/evaluator.h"
#include "trainer/memory_plan.h"
#include "trainer/pass_batch.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

using test::message_of;

TEST(RunDirectory, IsNeverOverwritten) {
    const TemporaryDirectory parent;
    const fs::path path = parent.path() / "runs" / "a";
    std::string moved;
    {
        const RunDirectory run = RunDirectory::create(path, false, moved);
        EXPECT_CONTAINS(message_of(ExitCode::usage, [&] { RunDirectory::open(path); }),
                        concat("is in use by process ", getpid(), " on "));
        message_of(ExitCode::usage, [&] { RunDirectory::check_free(path, true); });
    }
    EXPECT_NO_THROW(RunDirectory::check_free(path, false)) << "a lock alone is no run";
    std::ofstream(path / "metrics.jsonl") << "{}\n";
    const std::string message =
        message_of(ExitCode::usage, [&] { RunDirectory::check_free(path, false); });
    EXPECT_CONTAINS(message, "`fucina resume " + path.string() + "`");
    EXPECT_CONTAINS(message, "--fresh");
    for (const char* expected : {".old-1", ".old-2"}) {
        const RunDirectory run = RunDirectory::create(path, true, moved);
        EXPECT_EQ(moved, path.string() + expected);
        EXPECT_TRUE(fs::exists(fs::path(moved) / "metrics.jsonl"));
        EXPECT_FALSE(fs::exists(path / "metrics.jsonl"));
        std::ofstream(path / "metrics.jsonl") << "{}\n";
    }
}

TEST(RunDirectory, TakesRequestsOnce) {
    const TemporaryDirectory parent;
    std::string moved;
    const RunDirectory run = RunDirectory::create(parent.path() / "a", false, moved);
    EXPECT_FALSE(run.take_request("SAVE"));
    std::ofstream(run.path() / "SAVE");
    EXPECT_TRUE(run.take_request("SAVE"));
    EXPECT_FALSE(run.take_request("SAVE"));
}

TEST(RunDirectory, MissingRunNamesTrain) {
    const TemporaryDirectory parent;
    EXPECT_CONTAINS(
        message_of(ExitCode::no_checkpoint, [&] { RunDirectory::open(parent.path() / "none"); }),
        "fucina train");
}

TEST(RunDirectory, ForeignFolderIsLeftAsItIs) {
    const TemporaryDirectory parent;
    std::ofstream(parent.path() / "notes.txt") << "mine\n";
    EXPECT_CONTAINS(message_of(ExitCode::no_checkpoint, [&] { RunDirectory::open(parent.path()); }),
                    "is no run directory");
    EXPECT_FALSE(fs::exists(parent.path() / "lock"));
}

TEST(MemoryPlan, MergesPassesOnlyWhereThatCostsLittleMemory) {
    Recipe recipe;
    recipe.mutable_exact()->set_grain(1);
    recipe.mutable_exact()->set_replicas(16);
    recipe.mutable_train()->set_global_batch(16);
    recipe.mutable_train()->set_merge_passes(true);
    Model model = test::tiny_model(test::tiny_spec(), {});
    for (int64_t length : {1, 8, 64, 1024}) {
        recipe.mutable_data()->set_sequence_length(length);
        for (int64_t micro_batch : {1, 2, 16}) {
            recipe.mutable_train()->set_micro_batch(micro_batch);
            const MemoryPlan plan = plan_memory(recipe, model, plan_batch(recipe, 1), 0);
            int64_t grains = 0, longest = 0;
            for (const Pass& pass : plan.passes) {
                grains += pass.grains.count();
                longest = std::max(longest, pass.grains.count());
            }
            EXPECT_EQ(grains, 16);
            EXPECT_GE(longest, micro_batch);
            if (length == 1) {
                EXPECT_EQ(plan.passes.size(), 1u) << "gradients outweigh activations here";
            }
            if (length == 1024) {
                EXPECT_EQ(longest, micro_batch) << "activations outweigh gradients here";
            }
            recipe.mutable_train()->set_merge_passes(false);
            for (const Pass& pass : plan_memory(recipe, model, plan_batch(recipe, 1), 0).passes)
                EXPECT_EQ(pass.grains.count(), micro_batch);
            recipe.mutable_train()->set_merge_passes(true);
        }
    }
}

TEST(Evaluator, DoesNotDependOnHowManySequencesGoAtATime) {
    const auto documents = test::random_documents({5, 9, 16, 3, 40, 12, 7}, 37, 5);
    auto store = std::make_shared<TokenStore>(TokenStore::from_lists(documents, 37, "lists"));
    LoaderOptions options;
    options.sequence_length = 16;
    options.shuffle = true;  // which takes no part
    const BatchLoader loader({{store, 1.0}, {store, 3.0}}, options);
    Model model = test::tiny_model(test::tiny_spec(), {});
    const auto self = make_self_communicator();
    const double one = evaluate_loss(Mesh(*self, {}), model, loader, 1).nats_per_token;
    EXPECT_GT(one, 1.0);
    for (int64_t at_a_time : {2, 3, 100}) {
        EXPECT_EQ(evaluate_loss(Mesh(*self, {}), model, loader, at_a_time).nats_per_token, one);
    }
}

// The documents' bits by their logits and by hand, over the bytes of what is predicted.
TEST(Evaluator, BitsPerByteAreTheSumOfBitsOverThePredictedTokensBytes) {
    const auto documents = test::random_documents({5, 9, 16, 1, 12}, 37, 6);
    auto store = std::make_shared<TokenStore>(TokenStore::from_lists(documents, 37, "lists"));
    const BatchLoader loader({{store, 1.0}}, {.sequence_length = 16, .shuffle = false});
    Model model = test::tiny_model(test::tiny_spec(), {});
    std::vector<int32_t> token_bytes{0};  // 36 of 37 ids: the last has none
    for (int32_t id = 1; id < 36; ++id) token_bytes.push_back(1 + id % 7);
    double bits = 0, bytes = 0;
    for (const auto& document : documents) {
        const Tensor logits = model.logits(make_batch({&document, 1}));
        for (size_t t = 0; t + 1 < document.size(); ++t) {
            const float* row = logits.row<float>(static_cast<int64_t>(t));
            double sum = 0;
            for (int64_t i = 0; i < logits.dim(1); ++i) sum += std::exp(double{row[i]});
            const int32_t next = document[t + 1];
            bits += std::log2(sum) - double{row[next]} / std::log(2.0);
            if (next < 36) bytes += token_bytes[static_cast<size_t>(next)];
        }
    }
    const auto self = make_self_communicator();
    const HeldOutLoss loss = evaluate_loss(Mesh(*self, {}), model, loader, 2, token_bytes);
    ASSERT_TRUE(loss.bits_per_byte);
    EXPECT_NEAR(*loss.bits_per_byte / (bits / bytes), 1, 1e-6);
    EXPECT_FALSE(evaluate_loss(Mesh(*self, {}), model, loader, 2).bits_per_byte);
    EXPECT_FALSE(
        evaluate_loss(Mesh(*self, {}), model, loader, 2, std::vector<int32_t>(37)).bits_per_byte);
}

}  // namespace
}  // namespace fucina
