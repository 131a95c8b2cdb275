#include "trainer/shard_writer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "data/run_on_threads.h"
#include "data/streaming_hash.h"
#include "kernels/blocked_signals.h"
#include "kernels/runtime.h"

namespace fucina {
namespace {

constexpr int64_t kPiece = int64_t{2} << 20;  // written and hashed while in cache
constexpr int64_t kBlock = 4096;              // of which offset, size and address must be multiples

// Memory that begins with a page, and that the system has back at once.
class Pages {
  public:
    explicit Pages(int64_t bytes) : size_(static_cast<size_t>(std::max<int64_t>(bytes, 1))) {
        memory_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory_ == MAP_FAILED) throw std::bad_alloc();
    }
    ~Pages() { munmap(memory_, size_); }
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;
    std::span<std::byte> bytes() const { return {static_cast<std::byte*>(memory_), size_}; }

  private:
    size_t size_;
    void* memory_;
};

}  // namespace

ShardWriter::ShardWriter(std::filesystem::path path, std::vector<ShardDataset> datasets)
    : path_(std::move(path)),
      datasets_(std::move(datasets)),
      moved_(datasets_.size(), 0),
      taken_(datasets_.size(), 0) {
    written_.size = lay_out_shard(path_, datasets_);
    const BlockedSignals inherited;
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
        FileDescriptor file = open_shard(path_), direct = open_direct(path_);
        const std::lock_guard lock(mutex_);
        file_ = std::move(file);
        direct_ = std::move(direct);
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

// Datasets, until none is left to begin, or until one fails.
void ShardWriter::write_datasets() try {
    int64_t largest = 0;
    for (const ShardDataset& dataset : datasets_) largest = std::max(largest, dataset.nbytes);
    const Pages pages(std::min(kPiece, largest));
    while (true) {
        size_t i = 0;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return has_room_ || stopped_; });
            if (stopped_ || next_ == datasets_.size()) return;
            i = next_++;
        }
        write_dataset(i, pages.bytes());
    }
} catch (...) {
    stop(std::current_exception());
}

// What the page cache would cost, copies and pages to be found, is taken from the training.
void ShardWriter::write_piece(int64_t offset, std::span<const std::byte> piece,
                              std::span<std::byte> buffer) {
    size_t past = 0;  // bytes that go past the page cache
    if (direct_ && offset % kBlock == 0) past = piece.size() - piece.size() % kBlock;
    if (past > 0) {
        std::memcpy(buffer.data(), piece.data(), past);
        try {
            write_at(direct_, path_, offset, buffer.first(past));
        } catch (const StorageError& error) {
            if (error.number() != EINVAL) throw;
            past = 0;  // not this file system, or not after a write that was cut short
        }
    }
    if (past < piece.size())
        write_at(file_, path_, offset + static_cast<int64_t>(past), piece.subspan(past));
}

void ShardWriter::write_dataset(size_t i, std::span<std::byte> buffer) {
    ShardDataset& dataset = datasets_[i];
    StreamingHash hash;
    int64_t written = 0;
    for (auto piece = take(i); !piece.empty(); piece = take(i)) {
        struct Use {
            ShardWriter& writer;
            ~Use() { writer.give_back(); }
        } const use{*this};
        write_piece(dataset.byte_offset + written, piece, buffer);
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
