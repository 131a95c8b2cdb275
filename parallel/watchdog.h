// Watchdog: ends a job in which no rank gets on, and says who waits where.
//
// The main threads of a hanging job cannot speak: they wait in a collective, their process is
// stopped, or a disk does not answer. A thread of each rank reads what all ranks of its machine
// last said of themselves (Heartbeat), and makes no MPI call.
#pragma once
#include <condition_variable>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "parallel/heartbeat.h"

namespace fucina {

// A Heartbeat at one moment, its times turned into seconds before it.
struct RankView {
    int rank = 0;
    int process = 0;  // its id on this machine
    Phase phase = Phase::start_up;
    Call call = Call::none;
    bool inside = false;
    int64_t step = 0, sequence = 0, bytes = 0;
    double since_beat = 0;
    double since_seen = 0;  // that its process ran
    double median_step = 0;
};

struct HangLimits {
    double seconds = 0;   // without progress that are too long for a step; the floor
    std::string host;     // the ranks' machine
    bool others = false;  // the job has ranks on other machines, whose Heartbeats nobody sees here
};

// What to say if none of these ranks may be waited for any longer, else "". The first line names
// the rank that is behind, a table of all follows. A rank may take, without progress:
// max(seconds, 10 median steps) where it waits for others, is stopped, or makes a step; ten times
// that in its first step, an evaluation, a save and at the end, when its process runs and it is
// alone responsible; any time at the start, which may have to read and encode all data. Waiting for
// ranks on other machines counts as being responsible.
std::string find_hang(std::span<const RankView> ranks, const HangLimits& limits);

class Watchdog {
  public:
    struct Options {
        std::span<Heartbeat> records;  // of the ranks of this machine; outlive the watchdog
        Heartbeat& own;                // one of them
        int ranks = 1;                 // of the job
        double seconds = 60;           // HangLimits::seconds; 0: watches nothing
        // Called on the watchdog's thread, at most once, with find_hang's text.
        std::function<void(const std::string&)> hung;
    };
    explicit Watchdog(Options options);
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    void set_seconds(double seconds);

  private:
    void watch();
    std::string look(int64_t now);

    Options options_;
    const std::string host_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool ends_ = false;
    int64_t counts_from_ = 0;  // no wait is counted from before: this process may have been stopped
    int64_t looked_at_ = 0;
    std::thread thread_;
};

}  // namespace fucina
