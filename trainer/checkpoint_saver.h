// CheckpointSaver: saves while training goes on. The shards are written and fsynced beside it, then
// the ranks gather what they wrote, then the first writes the manifest and gives the directory its
// name, again beside the training. One save is under way at a time; ranks speak to each other only
// inside the calls below.
#pragma once
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <vector>

#include "parallel/communicator.h"
#include "trainer/checkpoint.h"
#include "trainer/save_plan.h"
#include "trainer/shard_writer.h"

namespace fucina {

class CheckpointSaver {
  public:
    // snapshot: bytes that copies of what changes may take.
    CheckpointSaver(Communicator& communicator, int64_t snapshot)
        : communicator_(communicator), snapshot_(snapshot) {}

    // Collective. Begins to save; nothing may be under way. The request's tensors may be read until
    // before_change() or the end. False: it failed, and finish() says why.
    bool start(SaveRequest request);
    // To be called before a tensor changes: what is not written yet is copied, or, where that is
    // more than the snapshot has room for, waited for.
    void before_change();

    bool under_way() const { return phase_ != Phase::none; }
    // Whether advance() would not wait for this rank.
    bool ready() const;
    // Collective, a save being under way: its next phase; what came of it when it has ended.
    std::optional<SaveOutcome> advance();
    // Collective: all phases.
    SaveOutcome finish();

  private:
    enum class Phase { none, failed, writing, committing };
    template <class Body>
    void on_first(const Body& body);
    template <class Body>
    void keep_problem(const Body& body);
    void reach(std::string_view point) const;
    void begin();
    void share_temporary();
    void start_writing();
    void gather();
    void commit();
    void take_back();
    void retire();
    SaveOutcome end();

    Communicator& communicator_;
    const int64_t snapshot_;
    Tensor room_;                  // u8, made once
    std::vector<Tensor> written_;  // what is written, in the host's memory
    bool copied_ = false;          // off a device: it may change there
    Phase phase_ = Phase::none;
    // Of the save under way:
    SaveRequest request_;
    std::vector<PlannedTensor> tensors_;  // the request's
    std::vector<Share> shares_;
    std::filesystem::path target_, temporary_;
    std::unique_ptr<ShardWriter> writer_;
    Manifest manifest_;
    bool renamed_ = false;
    std::vector<std::filesystem::path> trash_;  // to be removed when the save stands
    SaveOutcome outcome_;
    std::chrono::steady_clock::time_point began_;
    std::future<void> committed_;  // rank 0; last: it uses all of the above
};

// What copies take on this rank, in bytes: its part of what a save writes, at most `snapshot`.
int64_t snapshot_bytes(std::span<const NamedTensor> tensors, const MeshShape& mesh, int rank,
                       int64_t snapshot);

}  // namespace fucina
