// Finds unordered accesses to one block's shared memory, whatever the schedule: a vector clock for
// each thread and each asynchronous operation and, for each byte, its last write and the reads
// since (FastTrack, Flanagan & Freund 2009). Of what a thread knows, it also knows which writes of
// threads a proxy fence has made visible to asynchronous operations.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fucina::simt {

// How much of each thread's past, and of each operation's four parts', is known; and how much of
// the threads' is fenced.
struct Clock {
    std::vector<uint32_t> known, fenced;
};

struct Conflict {
    enum class Kind { unordered, never_written, not_fenced } kind = Kind::unordered;
    uint32_t address = 0;
    int other = -1;  // the thread or operation of the earlier access, for RaceDetector::name_of
    bool other_wrote = false;
};

// An asynchronous operation: what it follows, and the entry that stands for it in clocks.
struct Operation {
    int agent = -1;
    uint32_t time = 0;
    Clock clock;
};

class RaceDetector {
  public:
    // Forgets everything: a new block of so many threads.
    void reset(int threads);
    // Addresses below `bytes` may be accessed from now on.
    void cover(uint32_t bytes) { bytes_.resize(std::max(bytes_.size(), size_t{bytes})); }

    // A synchronisation publishes what a thread has done, and others learn it from there.
    void release(int thread, Clock& into);
    void acquire(int thread, const Clock& from);
    // Whether the thread knows what another did at this time.
    bool knows(int thread, int other, uint32_t time) const;
    uint32_t time_of(int thread) const;

    // A proxy fence: all that the thread knows of is now visible to asynchronous operations.
    void fence(int thread);
    // An operation that follows what `before` knows. Of 64 that were started one after the other
    // each has an entry of its own in clocks; older ones count as known when their successor is.
    Operation start(const Clock& before, std::string name);
    // Its end becomes known through `into`, or to a thread. A warpgroup's operation has four parts,
    // one of each warp, and is at its end when all are.
    void publish(const Operation& operation, Clock& into) const;
    void finish(const Operation& operation, int thread, int part = -1);
    static void merge(const Clock& from, Clock& into);

    // Records the access; a value is the first byte in conflict with an earlier access, or read
    // before any write, or not yet fenced for an operation.
    std::optional<Conflict> access(int thread, uint32_t address, uint32_t bytes, bool write);
    std::optional<Conflict> access(const Operation& operation, uint32_t address, uint32_t bytes,
                                   bool write);
    std::string name_of(int who) const;  // "thread 3", "TMA load gemm.cu:31"

  private:
    static constexpr int kAgents = 64, kParts = 4;
    struct Epoch {
        int32_t who = -1;
        uint32_t time = 0;
        bool operator==(const Epoch&) const = default;
    };
    struct Readers {
        std::vector<uint32_t> times;  // of each thread and operation
        uint32_t bytes = 0;           // that share it
    };
    struct Byte {
        Epoch write, read, second_read;
        int32_t readers = -1;  // index into readers_ when more than two unordered have read
        bool operator==(const Byte&) const = default;
    };
    bool known(const Clock& clock, Epoch epoch) const {
        if (epoch.who < 0) return true;
        if (epoch.who < threads_) return clock.known[static_cast<size_t>(epoch.who)] >= epoch.time;
        const uint32_t* parts = &clock.known[first_part(epoch.who)];
        return parts[0] >= epoch.time && parts[1] >= epoch.time && parts[2] >= epoch.time &&
               parts[3] >= epoch.time;
    }
    size_t first_part(int agent) const {
        return static_cast<size_t>(threads_ + (agent - threads_) * kParts);
    }
    std::optional<Conflict> access(const Clock& clock, Epoch now, uint32_t address, uint32_t bytes,
                                   bool write);
    // Of bytes [begin, end), which have one history.
    std::optional<Conflict> access_run(const Clock& clock, Epoch now, uint32_t begin, uint32_t end,
                                       bool write);
    void record_read(Byte& byte, uint32_t count, const Clock& clock, Epoch now);
    int32_t new_readers(uint32_t count);
    void leave_readers(int32_t index, uint32_t count);
    int unordered_reader(const Byte& byte, const Clock& clock) const;  // or -1

    int threads_ = 0, next_agent_ = 0;
    std::vector<Clock> clocks_;  // [threads]
    std::array<uint32_t, kAgents> agent_times_{};
    std::array<std::string, kAgents> agent_names_;
    std::vector<Byte> bytes_;
    std::vector<Readers> readers_;
    std::vector<int32_t> free_;  // entries of readers_ that no byte uses
};

}  // namespace fucina::simt
