// Saves beside training: what changes after before_change() is saved as it was.
#include "trainer/checkpoint_saver.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/support/checkpoint_case.h"
#include "trainer/manifest.h"

namespace fucina::test {
namespace {

using std::chrono::milliseconds;

// A disk whose writes take their time.
class SlowDisk : public FileWatch {
  public:
    explicit SlowDisk(milliseconds each) : each_(each) { watch_files(this); }
    ~SlowDisk() override { watch_files(nullptr); }
    int before(FileCall call, const std::filesystem::path& path) override {
        if (path.extension() != ".h5") return 0;
        if (call == FileCall::write) std::this_thread::sleep_for(each_);
        return fails && call == FileCall::sync ? EIO : 0;
    }
    void after(FileCall, const std::filesystem::path&, int) override {}

    std::atomic<bool> fails = false;

  private:
    const milliseconds each_;
};

class CheckpointSaverTest : public CheckpointTest {
  protected:
    // Of several pieces of 8 MiB each, and a small one.
    static std::vector<NamedTensor> large_state(uint32_t seed) {
        std::vector<NamedTensor> state{
            {"weight", "a", Tensor::empty({5 << 20}, DType::f32)},
            {"weight", "b", Tensor::empty({100, 7}, DType::f32)},
            {"m", "a", Tensor::empty({5 << 20}, DType::bf16)},
        };
        for (NamedTensor& named : state) {
            auto* const halves = reinterpret_cast<uint16_t*>(named.tensor.raw());
            for (int64_t i = 0; i < named.tensor.bytes() / 2; ++i)
                halves[i] = static_cast<uint16_t>((i * 40503 + i / 1000 * seed) & 0x3fff);
            ++seed;
        }
        return state;
    }
    SaveRequest request_of(int64_t step, const std::vector<NamedTensor>& state) const {
        SaveRequest request{.run_dir = dir_, .manifest = {}, .tensors = state};
        request.manifest.set_step(step);
        return request;
    }
    // The checkpoint of a step, in tensors like those of `state`.
    std::vector<NamedTensor> load(int64_t step, const std::vector<NamedTensor>& like) const {
        std::vector<NamedTensor> found = like;
        for (NamedTensor& named : found) {
            named.tensor = named.tensor.clone();
            std::memset(named.tensor.raw(), 0, static_cast<size_t>(named.tensor.bytes()));
        }
        const auto directory = checkpoint_directory(dir_, step);
        load_tensors(directory, read_manifest(directory), found);
        return found;
    }
};

TEST_F(CheckpointSaverTest, SavesWhatWasThereHoweverSmallTheSnapshot) {
    for (const int64_t snapshot : {int64_t{0}, int64_t{20} << 20, int64_t{1} << 30}) {
        for (const int ranks : {1, 3}) {
            std::filesystem::remove_all(dir_ / "checkpoints");
            const SlowDisk disk(milliseconds(20));
            run_on_threads(ranks, [&](Communicator& communicator) {
                const std::vector<NamedTensor> state = large_state(7);
                CheckpointSaver saver(communicator, snapshot);
                saver.start(request_of(1, state));
                saver.before_change();
                for (const NamedTensor& named : state)
                    std::memset(named.tensor.raw(), 9, static_cast<size_t>(named.tensor.bytes()));
                saver.before_change();  // the next step's
                const SaveOutcome outcome = saver.finish();
                EXPECT_EQ(outcome.problem, "");
                EXPECT_LE(outcome.waited, outcome.seconds + 1e-3);
            });
            const std::vector<NamedTensor> state = large_state(7);
            EXPECT_TRUE(equal(load(1, state), state))
                << ranks << " ranks, a snapshot of " << snapshot;
            verify_checkpoint(checkpoint_directory(dir_, 1));
        }
    }
}

TEST_F(CheckpointSaverTest, WithRoomForAllNothingIsWaitedFor) {
    const SlowDisk disk(milliseconds(200));
    const std::vector<NamedTensor> state = large_state(7);
    const auto self = make_self_communicator();
    double waited[2] = {};
    for (const int64_t snapshot : {0, 1}) {
        CheckpointSaver saver(*self, snapshot << 30);
        saver.start(request_of(snapshot + 1, state));
        const auto start = std::chrono::steady_clock::now();
        saver.before_change();
        waited[snapshot] =
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        EXPECT_TRUE(snapshot == 0 || !saver.ready());
        EXPECT_EQ(saver.finish().problem, "");
    }
    EXPECT_GT(waited[0], 0.7);  // 5 writes, of which one thread makes one after the other
    EXPECT_LT(waited[1], 0.5);  // the one that had begun
}

TEST_F(CheckpointSaverTest, ADiskThatFailsLaterIsReportedToAllRanks) {
    SlowDisk disk(milliseconds(1));
    disk.fails = true;
    std::atomic<int> problems = 0;
    run_on_threads(3, [&](Communicator& communicator) {
        const std::vector<NamedTensor> state = large_state(7);
        CheckpointSaver saver(communicator, 1 << 30);
        saver.start(request_of(1, state));
        saver.before_change();
        problems += saver.finish().problem.find("shard-00000-of-00003.h5") != std::string::npos;
        EXPECT_FALSE(saver.under_way());
        communicator.barrier();
        disk.fails = false;
        communicator.barrier();
        saver.start(request_of(2, state));
        EXPECT_EQ(saver.finish().problem, "");
    });
    EXPECT_EQ(problems, 3);
    EXPECT_EQ(list_checkpoints(dir_).size(), 1U);
    const std::vector<NamedTensor> state = large_state(7);
    EXPECT_TRUE(equal(load(2, state), state));
}

TEST_F(CheckpointSaverTest, OneThatIsGivenUpLeavesNoCheckpoint) {
    const SlowDisk disk(milliseconds(50));
    {
        const std::vector<NamedTensor> state = large_state(7);
        const auto self = make_self_communicator();
        CheckpointSaver saver(*self, 0);
        saver.start(request_of(1, state));
    }
    EXPECT_TRUE(list_checkpoints(dir_).empty());
    remove_leftovers(dir_);
    EXPECT_TRUE(std::filesystem::is_empty(dir_ / "checkpoints"));
}

}  // namespace
}  // namespace fucina::test
