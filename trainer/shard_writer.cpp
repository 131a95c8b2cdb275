#include "trainer/shard_writer.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cstring>

#include "data/run_on_threads.h"
#include "data/streaming_hash.h"
#include "kernels/runtime.h"

namespace fucina {
namespace {

constexpr int64_t kPiece = int64_t{8} << 20;  // written and hashed while in cache

// Signals belong to the main thread, whose calls they interrupt.
class NoSignals {
  public:
    NoSignals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
};

}  // namespace

ShardWriter::ShardWriter(std::filesystem::path path, std::vector<ShardDataset> datasets)
    : path_(std::move(path)),
      datasets_(std::move(datasets)),
      moved_(datasets_.size(), 0),
      taken_(datasets_.size(), 0) {
    written_.size = lay_out_shard(path_, datasets_);
    const NoSignals inherited;
    thread_ = std::thread([this] { run(); });
}

ShardWriter::~ShardWriter() {
    {
        const std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void ShardWriter::run() try {
    {
        FileDescriptor file = open_shard(path_);
        const std::lock_guard lock(mutex_);
        file_ = std::move(file);
        has_room_ = true;
    }
    changed_.notify_all();
    write_datasets();
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopped_ || ended_ == datasets_.size(); });
        if (stopped_) {
            done_ = true;
            return;
        }
    }
    written_.frame_xxh3 = frame_hash(path_, datasets_);
    sync_file(file_, path_);
    done_ = true;
} catch (...) {
    stop(std::current_exception());
    done_ = true;
}

void ShardWriter::stop(std::exception_ptr error) {
    {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::move(error);
        stopped_ = true;
    }
    changed_.notify_all();
}

// Datasets, until none is left to begin.
void ShardWriter::write_datasets() {
    while (true) {
        size_t i = 0;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return has_room_ || stopped_; });
            if (stopped_ || next_ == datasets_.size()) return;
            i = next_++;
        }
        try {
            write_dataset(i);
        } catch (...) {
            stop(std::current_exception());
        }
    }
}

void ShardWriter::write_dataset(size_t i) {
    ShardDataset& dataset = datasets_[i];
    StreamingHash hash;
    int64_t written = 0;
    for (auto piece = take(i); !piece.empty(); piece = take(i)) {
        struct Use {
            ShardWriter& writer;
            ~Use() { writer.give_back(); }
        } const use{*this};
        write_at(file_, path_, dataset.byte_offset + written, piece);
        hash.add(piece);
        written += std::ssize(piece);
    }
    if (written < dataset.nbytes) return;  // stopped
    dataset.xxh3 = hash.value();
    {
        const std::lock_guard lock(mutex_);
        ++ended_;
    }
    changed_.notify_all();
}

// The dataset's next bytes; none at its end, and where all stops.
std::span<const std::byte> ShardWriter::take(size_t i) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !moving_ || stopped_; });
    if (stopped_) return {};
    const ShardDataset& dataset = datasets_[i];
    const int64_t first = taken_[i], count = std::min(kPiece, dataset.nbytes - first);
    if (count == 0) return {};
    taken_[i] += count;
    ++in_use_;
    return {dataset.data + (first - moved_[i]), static_cast<size_t>(count)};
}

void ShardWriter::give_back() {
    {
        const std::lock_guard lock(mutex_);
        --in_use_;
    }
    changed_.notify_all();
}

int64_t ShardWriter::untaken() const {
    int64_t bytes = 0;
    for (size_t i = 0; i < datasets_.size(); ++i) bytes += datasets_[i].nbytes - taken_[i];
    return bytes;
}

void ShardWriter::copy_rest(std::span<std::byte> room) {
    std::unique_lock lock(mutex_);
    if (std::exchange(apart_, true)) return;
    changed_.wait(lock, [&] { return stopped_ || untaken() <= std::ssize(room); });
    moving_ = true;
    changed_.wait(lock, [&] { return in_use_ == 0; });
    struct Move {
        const std::byte* from;
        std::byte* to;
        int64_t nbytes;
    };
    std::vector<Move> moves;
    for (size_t i = 0; i < datasets_.size() && !stopped_; ++i) {
        ShardDataset& dataset = datasets_[i];
        const int64_t rest = dataset.nbytes - taken_[i];
        for (int64_t at = 0; at < rest; at += kPiece)
            moves.push_back(
                {dataset.data + taken_[i] + at, room.data() + at, std::min(kPiece, rest - at)});
        dataset.data = room.data();
        moved_[i] = taken_[i];
        room = room.subspan(static_cast<size_t>(rest));
    }
    lock.unlock();
    run_on_threads(std::ssize(moves), runtime().threads, [&](int64_t i) {
        const Move& move = moves[static_cast<size_t>(i)];
        std::memcpy(move.to, move.from, static_cast<size_t>(move.nbytes));
    });
    lock.lock();
    moving_ = false;
    lock.unlock();
    changed_.notify_all();
}

ShardWriter::Written ShardWriter::wait() {
    if (!done_) {
        std::vector<std::jthread> helpers;
        for (int64_t t = 1; t < runtime().threads; ++t)
            helpers.emplace_back([this] { write_datasets(); });
        write_datasets();
    }
    if (thread_.joinable()) thread_.join();
    if (error_) std::rethrow_exception(error_);
    return written_;
}

}  // namespace fucina
