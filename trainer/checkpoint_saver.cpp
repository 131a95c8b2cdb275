// Saving, in the order that makes it safe: write and fsync the shards; gather; write and fsync the
// manifest; fsync the directory; rename it; fsync its parent; only then drop older checkpoints.
#include "trainer/checkpoint_saver.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "data/file.h"
#include "kernels/arena.h"
#include "kernels/error.h"
#include "parallel/agreement.h"
#include "trainer/fault_point.h"
#include "trainer/manifest.h"
#include "trainer/retention.h"
#include "trainer/seconds_since.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Adds the time until it goes out of scope.
class Waited {
  public:
    explicit Waited(double& seconds) : seconds_(seconds) {}
    ~Waited() { seconds_ += seconds_since(start_); }

  private:
    double& seconds_;
    const Clock::time_point start_ = Clock::now();
};

// A share that this rank holds.
Tensor tensor_of(const NamedTensor& named, const Share& share) {
    if (share.box.offset.empty()) return named.tensor;
    const int64_t row = share.box.offset[0] - named.box().offset[0];
    return named.tensor.slice(row, row + share.box.extent[0]);
}

// Without a mesh all ranks hold the same.
MeshShape mesh_of(const MeshShape& mesh, int ranks) {
    return mesh.ranks() == ranks ? mesh : MeshShape{.data = ranks};
}

}  // namespace

template <class Body>
void CheckpointSaver::on_first(const Body& body) {
    agree(communicator_, [&] {
        if (communicator_.rank() == 0) body();
    });
}

// Runs body, whose failure all ranks share. That of the storage ends the save, not the program.
template <class Body>
void CheckpointSaver::keep_problem(const Body& body) {
    try {
        body();
    } catch (const Error& error) {
        if (error.code() != ExitCode::storage) throw;
        outcome_.problem = error.what();
        writer_.reset();
        if (communicator_.rank() == 0) take_back();
        phase_ = Phase::failed;
    }
}

void CheckpointSaver::reach(std::string_view point) const {
    fault_point(point, communicator_.rank());
}

bool CheckpointSaver::start(SaveRequest request) {
    FUCINA_CHECK(!under_way(), "a save is under way");
    began_ = Clock::now();
    outcome_ = {};
    const Waited waited(outcome_.waited);
    request_ = std::move(request);
    renamed_ = false;
    trash_.clear();
    const int ranks = communicator_.size();
    tensors_ = planned(request_.tensors);
    shares_ = plan_shares(tensors_, mesh_of(request_.mesh, ranks), ranks);
    target_ = outcome_.directory = checkpoint_directory(request_.run_dir, request_.manifest.step());
    temporary_ = target_.string() + fmt::format(".tmp-{}", getpid());
    phase_ = Phase::writing;
    keep_problem([&] {
        on_first([&] { begin(); });
        share_temporary();
        agree(communicator_, [&] { start_writing(); });
    });
    return phase_ == Phase::writing;
}

void CheckpointSaver::begin() {
    make_directories(target_.parent_path());
    // metrics.jsonl and all else that the run made so far; also checkpoints/, if a process made it
    // that was killed before this.
    sync_directory(request_.run_dir);
    int64_t total = 0, largest = 0;
    for (const int64_t bytes : bytes_by_writer(shares_, communicator_.size())) {
        total += bytes;
        largest = std::max(largest, bytes);
    }
    check_room(target_.parent_path(), total, largest);
    remove_tree(temporary_);  // of an earlier failure of this process
    make_directories(temporary_);
}

// Every rank must use rank 0's name.
void CheckpointSaver::share_temporary() {
    int64_t process = getpid();
    communicator_.broadcast(std::as_writable_bytes(std::span(&process, 1)), 0);
    temporary_ = target_.string() + fmt::format(".tmp-{}", process);
}

void CheckpointSaver::start_writing() {
    const int rank = communicator_.rank();
    std::vector<ShardDataset> datasets;
    for (const Share& share : shares_) {
        if (share.writer != rank) continue;
        datasets.push_back(dataset_of(tensors_[share.tensor], share));
        const NamedTensor& named = request_.tensors[share.tensor];
        written_.push_back(on_host(named.exec, tensor_of(named, share)));
        datasets.back().data = written_.back().memory().data();
        copied_ = !named.exec.on_host();
    }
    reach("save.begin");
    writer_ = std::make_unique<ShardWriter>(temporary_ / shard_name(rank, communicator_.size()),
                                            std::move(datasets));
}

void CheckpointSaver::before_change() {
    if (phase_ != Phase::writing || copied_ || writer_->done()) return;
    const Waited waited(outcome_.waited);
    const auto rank = static_cast<size_t>(communicator_.rank());
    const int64_t bytes = std::min(snapshot_, bytes_by_writer(shares_, communicator_.size())[rank]);
    if (bytes > 0 && (!room_.defined() || room_.bytes() < bytes)) {
        MemoryPurpose purpose("snapshot");
        room_ = Tensor::empty({bytes}, DType::u8);
    }
    writer_->copy_rest(bytes > 0 ? room_.memory() : std::span<std::byte>());
}

bool CheckpointSaver::ready() const {
    if (phase_ == Phase::writing) return writer_->done();
    if (phase_ == Phase::committing && committed_.valid())
        return committed_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    return true;
}

std::optional<SaveOutcome> CheckpointSaver::advance() {
    const Waited waited(outcome_.waited);
    if (phase_ == Phase::writing) {
        keep_problem([&] {
            agree(communicator_, [&] {
                writer_->wait();
                reach("save.shard");
            });
            gather();
            if (communicator_.rank() == 0)
                committed_ = std::async(std::launch::async, [this] { commit(); });
            phase_ = Phase::committing;
        });
        return std::nullopt;
    }
    if (phase_ == Phase::committing) {
        keep_problem([&] {
            on_first([&] { committed_.get(); });
            for (const SavedFile& file : manifest_.files()) outcome_.bytes += file.size();
        });
    }
    return end();
}

SaveOutcome CheckpointSaver::end() {
    phase_ = Phase::none;
    writer_.reset();
    written_.clear();
    request_ = {};
    tensors_.clear();
    outcome_.seconds = seconds_since(began_);
    return outcome_;
}

SaveOutcome CheckpointSaver::finish() {
    while (true)
        if (const std::optional<SaveOutcome> outcome = advance()) return *outcome;
}

// Sizes, offsets and checksums of all shards; every rank can then write the manifest, and rank 0
// does.
void CheckpointSaver::gather() {
    const ShardWriter::Written shard = writer_->wait();
    std::vector<int64_t> own{shard.size, static_cast<int64_t>(shard.frame_xxh3)};
    for (const ShardDataset& dataset : writer_->datasets()) {
        own.push_back(dataset.byte_offset);
        own.push_back(static_cast<int64_t>(dataset.xxh3));
    }
    const auto ranks = static_cast<size_t>(communicator_.size());
    std::vector<int64_t> longest{static_cast<int64_t>(own.size())};
    communicator_.all_reduce_max(longest);
    const auto width = static_cast<size_t>(longest[0]);
    own.resize(width, 0);
    std::vector<int64_t> all(width * ranks);
    communicator_.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all)));
    manifest_ = request_.manifest;
    for (size_t r = 0; r < ranks; ++r) {
        add_file(manifest_, shard_name(static_cast<int>(r), communicator_.size()), all[r * width],
                 static_cast<uint64_t>(all[r * width + 1]));
    }
    for (const PlannedTensor& tensor : tensors_) add_tensor(manifest_, tensor);
    std::vector<size_t> next(ranks);
    for (size_t r = 0; r < ranks; ++r) next[r] = r * width + 2;
    for (const Share& share : shares_) {
        const auto writer = static_cast<size_t>(share.writer);
        add_box(*manifest_.mutable_tensors(static_cast<int>(share.tensor)), tensors_[share.tensor],
                share, all[next[writer]], static_cast<uint64_t>(all[next[writer] + 1]));
        next[writer] += 2;
    }
}

void CheckpointSaver::commit() {
    reach("save.gathered");
    check_manifest(manifest_, (temporary_ / kManifestName).string());
    write_manifest(manifest_, temporary_, [&] { reach("save.manifest"); });
    reach("save.written");
    if (fs::exists(target_)) trash_.push_back(to_trash(target_));
    rename_path(temporary_, target_);
    renamed_ = true;
    reach("save.renamed");
    sync_directory(target_.parent_path());
    retire();
}

// A save that failed leaves nothing, not even a checkpoint that may be gone after a crash.
void CheckpointSaver::take_back() {
    try {
        if (renamed_) rename_path(target_, temporary_);
        if (!trash_.empty()) rename_path(trash_.front(), target_);
        remove_tree(temporary_);
    } catch (const Error&) {  // it failed already
    }
}

// Too many old checkpoints are no reason to fail a save that stands.
void CheckpointSaver::retire() {
    try {
        for (const fs::path& dir : beyond(request_.run_dir, request_.keep, target_)) {
            reach("save.retire");
            trash_.push_back(to_trash(dir));
        }
        empty_trash(target_.parent_path(), trash_);
    } catch (const std::exception&) {
    }
}

void check_room(const fs::path& dir, int64_t bytes, int64_t largest_file) {
    struct statvfs system;
    if (statvfs(dir.c_str(), &system) == 0) {
        const auto free =
            static_cast<int64_t>(system.f_bavail) * static_cast<int64_t>(system.f_frsize);
        if (free < bytes) {
            fail(ExitCode::storage, dir.string(), ": no space left: ", bytes, " bytes are needed, ",
                 free, " are free");
        }
    }
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        static_cast<int64_t>(limit.rlim_cur) < largest_file) {
        fail(ExitCode::storage, dir.string(), ": a shard needs ", largest_file,
             " bytes, this process may write files of ", limit.rlim_cur);
    }
}

int64_t snapshot_bytes(std::span<const NamedTensor> tensors, const MeshShape& mesh, int rank,
                       int64_t snapshot) {
    if (snapshot == 0) return 0;
    const std::vector<Share> shares = plan_shares(planned(tensors), mesh, mesh.ranks());
    return std::min(snapshot, bytes_by_writer(shares, mesh.ranks())[static_cast<size_t>(rank)]);
}

SaveOutcome save_checkpoint(Communicator& communicator, SaveRequest request) {
    CheckpointSaver saver(communicator, 0);
    saver.start(std::move(request));
    return saver.finish();
}

NamedTensor named(std::string kind, const Parameter& parameter, const Tensor& tensor) {
    return {.kind = std::move(kind),
            .name = parameter.name,
            .tensor = tensor,
            .whole = parameter.shape,
            .layout = parameter.layout,
            .part = parameter.box,
            .exec = parameter.exec};
}

NamedTensor named(std::string kind, const Parameter& parameter, const Tensor& tensor,
                  const Box& part, bool shared_out) {
    NamedTensor result = named(std::move(kind), parameter, tensor);
    result.part = part;
    result.shared_out = shared_out;
    return result;
}

}  // namespace fucina
