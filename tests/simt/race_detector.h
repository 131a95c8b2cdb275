// Finds unordered accesses to one block's shared memory, whatever the schedule: a vector clock for
// each thread and, for each byte, its last write and the reads since (FastTrack, Flanagan & Freund
// 2009).
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

namespace fucina::simt {

using Clock = std::vector<uint32_t>;  // [threads] how much of each thread's past is known

struct Conflict {
    enum class Kind { unordered, never_written } kind = Kind::unordered;
    uint32_t address = 0;
    int other = -1;  // the thread of the earlier access
    bool other_wrote = false;
};

class RaceDetector {
  public:
    // Forgets everything: a new block of so many threads.
    void reset(int threads);
    // Addresses below `bytes` may be accessed from now on.
    void cover(uint32_t bytes) { bytes_.resize(bytes); }

    // A synchronisation publishes what a thread has done, and others learn it from there.
    void release(int thread, Clock& into);
    void acquire(int thread, const Clock& from);

    // Records the access; a value is the first byte in conflict with an earlier access, or read
    // before any write.
    std::optional<Conflict> access(int thread, uint32_t address, uint32_t bytes, bool write);

  private:
    struct Epoch {
        int32_t thread = -1;
        uint32_t time = 0;
    };
    struct Byte {
        Epoch write, read;
        int32_t readers = -1;  // index into readers_ when several unordered threads have read
    };
    bool known(const Clock& clock, Epoch epoch) const {
        return epoch.thread < 0 || clock[static_cast<size_t>(epoch.thread)] >= epoch.time;
    }
    void record_read(Byte& byte, const Clock& clock, Epoch now);
    int unordered_reader(const Byte& byte, const Clock& clock) const;  // or -1

    std::vector<Clock> clocks_;  // [threads]
    std::vector<Byte> bytes_;
    std::vector<Clock> readers_;
    std::vector<int32_t> free_;  // entries of readers_ that no byte uses
};

}  // namespace fucina::simt
