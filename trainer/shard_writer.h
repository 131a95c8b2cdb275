// ShardWriter: writes one shard on threads of its own, while those whose bytes it writes go on
// computing with them.
#pragma once
#include <atomic>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "data/file.h"
#include "trainer/shard_file.h"

namespace fucina {

class ShardWriter {
  public:
    // Makes a new file for the datasets and begins to write them. Fails with exit 11.
    ShardWriter(std::filesystem::path path, std::vector<ShardDataset> datasets);
    ~ShardWriter();  // writes no more where it did not come to its end
    ShardWriter(const ShardWriter&) = delete;
    ShardWriter& operator=(const ShardWriter&) = delete;

    // After this the datasets' bytes may change: what is not written yet was copied to `room`. As
    // long as that is too small for it, this waits for more to be written.
    void copy_rest(std::span<std::byte> room);

    // Whether wait() would return, or throw, at once.
    bool done() const { return done_; }

    struct Written {
        int64_t size = 0;
        uint64_t frame_xxh3 = 0;  // SavedFile's
    };
    // Until all is written and on disk, with every thread that the process may use. Fails with
    // exit 11, the file then being good for nothing.
    Written wait();

    // Offsets are there from the beginning, hashes after wait().
    const std::vector<ShardDataset>& datasets() const { return datasets_; }

  private:
    void run();
    void write_datasets();
    void write_dataset(size_t i, std::span<std::byte> buffer);
    void write_piece(int64_t offset, std::span<const std::byte> piece, std::span<std::byte> buffer);
    std::span<const std::byte> take(size_t i);
    void give_back();
    void stop(std::exception_ptr error);
    int64_t untaken() const;

    const std::filesystem::path path_;
    std::vector<ShardDataset> datasets_;
    FileDescriptor file_, direct_;  // the same file; direct_: past the page cache, where it can be
    Written written_;
    std::atomic<bool> done_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
    // Guarded by mutex_, as are the datasets' data:
    std::vector<int64_t> moved_;  // where in each dataset its data begins: 0, or what was copied
    std::vector<int64_t> taken_;  // bytes of each dataset that were written or are being written
    size_t next_ = 0;             // dataset to be begun
    size_t ended_ = 0;            // datasets
    int64_t in_use_ = 0;          // pieces being written
    bool has_room_ = false;       // the file system has promised it
    bool moving_ = false;         // bytes are being copied; no piece may be taken
    bool apart_ = false;          // no byte is taken from others any longer
    bool stopped_ = false;
    std::exception_ptr error_;
    std::thread thread_;  // last: it uses all of the above
};

}  // namespace fucina
