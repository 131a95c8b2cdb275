// Guards against a save, or a start of a run, that a power cut undoes: at every file call the
// machine may stop, what was not synced may be gone or there, and what was promised must be found
// again.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "parallel/thread_communicator.h"
#include "tests/support/crash_disk.h"
#include "tests/support/expect_text.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_run.h"
#include "trainer/checkpoint_reader.h"
#include "trainer/hf_export.h"
#include "trainer/manifest.h"
#include "trainer/samples.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;
using test::CrashDisk;
using Survives = CrashDisk::Survives;

std::vector<NamedTensor> state_of(int64_t step) {
    std::vector<NamedTensor> state{{"weight", "a", Tensor::empty({40, 3}, DType::f32)},
                                   {"m", "a", Tensor::empty({40, 3}, DType::bf16)},
                                   {"weight", "b", Tensor::empty({700, 500}, DType::f32)}};
    for (size_t i = 0; i < state.size(); ++i) {
        std::memset(state[i].tensor.raw(), static_cast<int>(10 * step + static_cast<int64_t>(i)),
                    static_cast<size_t>(state[i].tensor.bytes()));
    }
    return state;
}

bool equal(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
    for (size_t i = 0; i < a.size(); ++i) {
        if (std::memcmp(a[i].tensor.raw(), b[i].tensor.raw(),
                        static_cast<size_t>(a[i].tensor.bytes())) != 0) {
            return false;
        }
    }
    return true;
}

class CrashTest : public testing::Test {
  protected:
    CrashTest() {
        fs::create_directories(disk_root_);
        fs::create_directories(images_.path());
    }

    SaveOutcome save(int64_t step, int64_t keep, int ranks = 1) {
        SaveOutcome outcome;
        const auto state = state_of(step);
        run_on_threads(ranks, [&](Communicator& communicator) {
            SaveRequest request{.run_dir = run_, .manifest = {}, .tensors = state, .keep = keep};
            request.manifest.set_step(step);
            const SaveOutcome own = save_checkpoint(communicator, request);
            if (communicator.rank() == 0) outcome = own;
        });
        return outcome;
    }

    // Every way in which a crash now can leave the disk, as the run directory there.
    void for_every_crash(CrashDisk& disk, const std::function<void(const fs::path&)>& body) {
        for (const auto& [survives, seeds] :
             {std::pair(Survives::synced, 1u), {Survives::everything, 1u}, {Survives::some, 3u}}) {
            for (uint32_t seed = 0; seed < seeds; ++seed) {
                disk.copy_survivors(survives, 100 * points_ + seed, images_.path() / "disk");
                body(images_.path() / "disk" / fs::relative(run_, disk_root_));
            }
        }
        ++points_;
    }

    // Every checkpoint is whole, the newest is the committed one or the next, and enough are there.
    void expect_whole(const fs::path& run, int64_t committed, size_t at_least) {
        const auto found = list_checkpoints(run);
        EXPECT_GE(found.size(), at_least) << "after " << committed << ", point " << points_;
        for (const fs::path& dir : found) {
            auto loaded = state_of(0);
            try {
                const Manifest manifest = read_manifest(dir);
                load_tensors(dir, manifest, loaded);
                EXPECT_TRUE(equal(loaded, state_of(manifest.step()))) << dir;
            } catch (const Error& error) {
                ADD_FAILURE() << "point " << points_ << ": " << error.what();
            }
        }
        if (committed > 0) {
            ASSERT_FALSE(found.empty()) << "point " << points_;
            const int64_t newest = read_manifest(found[0]).step();
            EXPECT_TRUE(newest == committed || newest == committed + 1)
                << newest << " after " << committed << ", point " << points_;
        }
    }

    TemporaryDirectory work_, images_;
    const fs::path disk_root_ = work_.path() / "disk", run_ = disk_root_ / "runs" / "of-mine";
    uint32_t points_ = 0;
};

TEST_F(CrashTest, ASaveIsThereOrNotAndNeverHalf) {
    for (const int64_t keep : {1, 2}) {
        for (const int ranks : {1, 2}) {
            fs::remove_all(disk_root_);
            fs::create_directories(disk_root_);
            CrashDisk disk(disk_root_);
            int64_t committed = 0;
            points_ = 0;
            disk.at_point = [&] {
                for_every_crash(disk, [&](const fs::path& run) {
                    expect_whole(run, committed, static_cast<size_t>(std::min(committed, keep)));
                });
            };
            make_directories(run_);
            for (int64_t step = 1; step <= 4; ++step) {
                ASSERT_EQ(save(step, keep, ranks).problem, "");
                committed = step;
            }
            disk.crash_here();
            EXPECT_EQ(list_checkpoints(run_).size(), static_cast<size_t>(keep));
            EXPECT_GT(points_, 50u);
        }
    }
}

TEST_F(CrashTest, ACallThatFailsDropsTheSaveAndNothingElse) {
    fs::create_directories(run_);
    ASSERT_EQ(save(1, 2).problem, "");
    bool all_made = false, parent_failed = false;
    for (int64_t nth = 0; !all_made; ++nth) {
        ASSERT_LT(nth, 200);
        CrashDisk disk(disk_root_);
        std::string failed;
        disk.fails = [&](FileCall call, const fs::path& path, int64_t n) {
            if (n != nth) return 0;
            failed = path.string();
            const bool syncs = call == FileCall::sync_directory;
            parent_failed |=
                syncs && path == run_ / "checkpoints" && fs::exists(checkpoint_directory(run_, 2));
            return EIO;
        };
        const SaveOutcome outcome = save(2, 2);
        disk.fails = nullptr;
        all_made = failed.empty();
        const bool saved = outcome.problem.empty();
        if (!saved) {
            EXPECT_CONTAINS(outcome.problem, "Input/output error");
        }
        EXPECT_EQ(list_checkpoints(run_).size(), saved ? 2u : 1u)
            << failed << ": " << outcome.problem;
        for_every_crash(
            disk, [&](const fs::path& run) { expect_whole(run, saved ? 2 : 1, saved ? 2 : 1); });
        ASSERT_EQ(save(3, 9).problem, "") << "the next save goes well";
        size_t entries = 0;
        for (const auto& entry : fs::directory_iterator(run_ / "checkpoints")) {
            entries += entry.exists();
        }
        EXPECT_EQ(entries, saved ? 3u : 2u) << "something was left when " << failed << " failed";
        for (const int64_t step : {2, 3}) fs::remove_all(checkpoint_directory(run_, step));
    }
    EXPECT_TRUE(parent_failed) << "the parent's sync after the rename was never reached";
}

TEST_F(CrashTest, SettingAsideAndPruningLoseNothing) {
    fs::create_directories(run_);
    for (const int64_t step : {1, 2, 3, 4}) ASSERT_EQ(save(step, 9).problem, "");
    const fs::path damaged = checkpoint_directory(run_, 4);
    fs::resize_file(damaged / kManifestName, 100);
    CrashDisk disk(disk_root_);
    disk.at_point = [&] {
        for_every_crash(disk, [&](const fs::path& run) {
            const fs::path found = find_checkpoint(run, [](const fs::path&, const std::string&) {});
            auto loaded = state_of(0);
            load_tensors(found, read_manifest(found), loaded);
            EXPECT_TRUE(equal(loaded, state_of(3))) << found;
        });
    };
    set_aside(damaged);
    EXPECT_EQ(prune_checkpoints(run_, 1).size(), 2u);
    disk.crash_here();
    EXPECT_EQ(list_checkpoints(run_), std::vector{checkpoint_directory(run_, 3)});
    EXPECT_TRUE(fs::exists(damaged.string() + ".damaged"));
    EXPECT_GT(points_, 6u);
}

std::map<std::string, std::string> files_in(const fs::path& dir) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(dir))
        files[entry.path().filename().string()] = read_text_file(entry.path(), 1 << 30);
    return files;
}

TEST_F(CrashTest, AnExportIsThereOrNotAndNeverHalf) {
    test::TinyRun run(run_, work_.path() / "ids.json", test::random_documents({8, 5, 8, 3}, 37, 1));
    run.train({"train.steps=1"});
    const CheckpointReader reader(list_checkpoints(run_).at(0));
    const ExportOptions options{.dtype = DType::f32, .shard_bytes = 20'000};
    export_model(reader, work_.path() / "reference", options);
    const auto whole = files_in(work_.path() / "reference");
    EXPECT_GT(whole.size(), 4u);
    const fs::path out = run_.parent_path() / "exported";
    for (const bool empty : {false, true}) {
        if (empty) fs::create_directories(out);
        CrashDisk disk(disk_root_);
        int64_t seen = 0;
        disk.at_point = [&] {
            for_every_crash(disk, [&](const fs::path& image) {
                const fs::path there = image.parent_path() / "exported";
                if (!fs::exists(there) || (empty && fs::is_empty(there))) return;
                EXPECT_TRUE(files_in(there) == whole) << "point " << points_;
                ++seen;
            });
        };
        export_model(reader, out, options);
        disk.crash_here();
        EXPECT_GE(seen, 5) << "once it is there, every crash leaves it";
        fs::remove_all(out);
    }
    EXPECT_GT(points_, 40u);
}

// A new run and two resumes, each of two steps: at every moment a resume finds the last step that
// was saved or the one being saved, with its metrics and samples.
TEST_F(CrashTest, ARunGoesOnFromTheLastSave) {
    test::TinyRun run(run_, work_.path() / "ids.json",
                      test::random_documents({8, 5, 8, 3, 8, 8, 7, 8}, 37, 1));
    run.base = {"model.vocab_size=512", "eval.every=1", "checkpoint.every=0",
                std::string("data.tokenizer=") + FUCINA_SOURCE_DIR
                    "/tests/golden/tokenizer/tokenizer.json"};
    CrashDisk disk(disk_root_);
    const auto self = make_self_communicator();
    int64_t committed = 0;
    disk.at_point = [&] {
        for_every_crash(disk, [&](const fs::path& image) {
            if (committed == 0) return;
            try {
                const TrainingRun found = run.resume(*self, {}, image);
                EXPECT_TRUE(found.step == committed || found.step == committed + 2) << found.step;
                EXPECT_GE(read_metrics((image / "metrics.jsonl").string()).size(),
                          static_cast<size_t>(found.step));
                std::ifstream samples(image / "samples.jsonl");
                int64_t lines = 0;
                for (std::string line; std::getline(samples, line) && !samples.eof();) ++lines;
                EXPECT_GE(lines, committed);
                const std::string recipe = (image / "recipe.resolved.toml").string();
                EXPECT_EQ(load_recipe(recipe, {}).recipe.train().global_batch(), 4);
            } catch (const Error& error) {
                ADD_FAILURE() << "after step " << committed << ": " << error.what();
            }
        });
    };
    run.train({"train.steps=2"});
    committed = 2;
    for (const int64_t steps : {4, 6}) {
        // What a run wrote that was killed before its save.
        std::ofstream(run_ / "samples.jsonl", std::ios::app)
            << R"({"step":99,"prompt":"","text":""})"
            << "\n";
        run.go_on({concat("train.steps=", steps)});
        committed = steps;
    }
    disk.crash_here();
    EXPECT_GT(points_, 30u);
}

}  // namespace
}  // namespace fucina
