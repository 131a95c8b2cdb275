// Heartbeat: what one rank last said of itself, readable by the other ranks of its machine while
// its main thread hangs or its process is stopped. parallel/watchdog.h reads them.
#pragma once
#include <atomic>
#include <cstdint>
#include <string_view>

namespace fucina {

// What a rank does between its collective calls.
enum class Phase : int32_t {
    start_up,
    load,
    forward_backward,
    reduce,
    update,
    log,
    evaluate,
    save,
    finish
};
std::string_view name_of(Phase phase);

// The calls of a Communicator.
enum class Call : int32_t {
    none,
    barrier,
    broadcast,
    all_gather,
    all_to_all_v,
    all_reduce_sum,
    all_reduce_max,
    split,
    send,
    receive,
    finish  // no Communicator's: the process waits for the others to end too
};
std::string_view name_of(Call call);
// Collectives have a sequence number.
inline bool is_collective(Call call) {
    return Call::barrier <= call && call <= Call::split;
}

// Times in nanoseconds of the machine's monotonic clock, which its processes share. One thread
// writes each field; each is true by itself, two may be of different moments.
struct Heartbeat {
    std::atomic<int32_t> rank{-1};  // in the job; -1: there is none
    std::atomic<int32_t> process{0};
    std::atomic<Phase> phase{Phase::start_up};
    std::atomic<Call> call{Call::none};   // the last that was entered
    std::atomic<bool> inside{false};      // and not left
    std::atomic<int64_t> step{0};         // being made; 0: none yet
    std::atomic<int64_t> sequence{0};     // collectives entered so far
    std::atomic<int64_t> bytes{0};        // that `call` was given
    std::atomic<int64_t> beat_at{0};      // last progress: a phase began, a call began or ended
    std::atomic<int64_t> seen_at{0};      // written by the watchdog while the process runs
    std::atomic<int64_t> median_step{0};  // ns, of the last steps; 0: not known yet
};
static_assert(std::atomic<int64_t>::is_always_lock_free &&
                  std::atomic<Phase>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "processes share these");

int64_t monotonic_ns();

}  // namespace fucina
