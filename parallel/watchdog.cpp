#include "parallel/watchdog.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <tuple>
#include <vector>

#include "kernels/blocked_signals.h"
#include "kernels/error.h"
#include "parallel/host_name.h"

namespace fucina {
namespace {

constexpr double kMedianSteps = 10;  // without progress that are too long
constexpr double kLongPhases = 10;   // times as long for what may be long
constexpr double kLookSeconds = 0.25;
constexpr auto kRelaxed = std::memory_order_relaxed;

double seconds(int64_t ns) {
    return static_cast<double>(ns) * 1e-9;
}

// Its process runs: its watchdog has written lately. A machine that swaps may be late.
bool runs(const RankView& rank, double limit) {
    return rank.since_seen < std::max(1.0, limit / 4);
}

double patience(const RankView& rank, double limit, bool others) {
    if (!runs(rank, limit) || (rank.inside && !others)) return limit;
    switch (rank.phase) {
        case Phase::start_up:
            return std::numeric_limits<double>::infinity();
        case Phase::evaluate:
        case Phase::save:
        case Phase::finish:
            return limit * kLongPhases;
        default:
            return rank.median_step > 0 ? limit : limit * kLongPhases;
    }
}

std::string where(const RankView& rank) {
    if (rank.step == 0) return std::string(name_of(rank.phase));
    return concat(name_of(rank.phase), " of step ", rank.step);
}

std::string last_call(const RankView& rank) {
    if (rank.call == Call::none) return "no call yet";
    std::string text = concat(rank.inside ? "in " : "after ", name_of(rank.call));
    if (is_collective(rank.call)) text += concat(" #", rank.sequence);
    if (rank.bytes > 0) text += concat(" of ", rank.bytes, " bytes");
    return text;
}

// Whom the others wait for: one whose process does not run, else one that computes, else the one
// with the fewest collectives behind it, else the one in another call than most. Nobody if all wait
// in the same one.
const RankView* behind(std::span<const RankView> ranks, double limit) {
    const auto key = [&](const RankView& rank) {
        return std::tuple(runs(rank, limit), rank.inside, rank.sequence);
    };
    const auto callers = [&](const RankView& rank) {
        return std::ranges::count(ranks, rank.call, &RankView::call);
    };
    const auto& first = *std::ranges::min_element(ranks, {}, key);
    const auto& last = *std::ranges::max_element(ranks, {}, key);
    const auto& odd = *std::ranges::min_element(ranks, {}, callers);
    if (key(first) != key(last) || !first.inside) return &first;
    return callers(odd) < std::ssize(ranks) ? &odd : nullptr;
}

std::string table(std::span<const RankView> ranks, const HangLimits& limits, double limit) {
    std::string text = fmt::format("\n  {:>4}  {:>8}  {:<16}  {:>8}  {:>8}  {}", "rank", "process",
                                   "phase", "step", "for", "last call");
    for (const RankView& rank : ranks) {
        text +=
            fmt::format("\n  {:>4}  {:>8}  {:<16}  {:>8}  {:>6.0f} s  {}", rank.rank, rank.process,
                        name_of(rank.phase), rank.step, rank.since_beat, last_call(rank));
        if (!runs(rank, limit)) text += "; its process does not run";
    }
    if (limits.others) text += "\n  the other ranks are on another machine";
    return text;
}

}  // namespace

std::string find_hang(std::span<const RankView> ranks, const HangLimits& limits) {
    if (ranks.empty() || limits.seconds <= 0) return "";
    double limit = limits.seconds, least = std::numeric_limits<double>::infinity();
    for (const RankView& rank : ranks) limit = std::max(limit, kMedianSteps * rank.median_step);
    for (const RankView& rank : ranks) {
        if (rank.since_beat < patience(rank, limit, limits.others)) return "";
        least = std::min(least, rank.since_beat);
    }
    std::string who = concat("all wait in the same call, for ",
                             limits.others ? "a rank on another machine or the network" : "MPI");
    if (const RankView* rank = behind(ranks, limit)) {
        who = concat("rank ", rank->rank, " is behind, ", runs(*rank, limit) ? "" : "stopped ",
                     "in ", where(*rank), ", ", last_call(*rank));
    }
    return fmt::format(
               "no rank on {} has got on for {:.0f} s (train.watchdog allows {:.0f}): {}; find out "
               "what holds it, then fucina resume goes on from the last checkpoint",
               limits.host, least, limit, who) +
           table(ranks, limits, limit);
}

Watchdog::Watchdog(Options options) : options_(std::move(options)), host_(host_name()) {
    counts_from_ = looked_at_ = monotonic_ns();
    options_.own.seen_at.store(looked_at_, kRelaxed);
    const BlockedSignals inherited;
    thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
    {
        std::lock_guard lock(mutex_);
        ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void Watchdog::set_seconds(double seconds) {
    std::lock_guard lock(mutex_);
    options_.seconds = seconds;
}

void Watchdog::watch() {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, std::chrono::duration<double>(kLookSeconds),
                              [&] { return ends_; })) {
        const std::string text = look(monotonic_ns());
        if (text.empty()) continue;
        lock.unlock();
        return options_.hung(text);
    }
}

std::string Watchdog::look(int64_t now) {
    // Who has slept (Ctrl-Z, a suspended job) knows nothing of the others' time.
    if (seconds(now - looked_at_) > std::max(1.0, options_.seconds / 4)) counts_from_ = now;
    looked_at_ = now;
    options_.own.seen_at.store(now, kRelaxed);
    const auto since = [&](const std::atomic<int64_t>& at) {
        return std::max(0.0, seconds(now - std::max(at.load(kRelaxed), counts_from_)));
    };
    std::vector<RankView> views;
    for (const Heartbeat& record : options_.records) {
        if (record.rank.load(kRelaxed) < 0) continue;
        views.push_back({.rank = record.rank.load(kRelaxed),
                         .process = record.process.load(kRelaxed),
                         .phase = record.phase.load(kRelaxed),
                         .call = record.call.load(kRelaxed),
                         .inside = record.inside.load(kRelaxed),
                         .step = record.step.load(kRelaxed),
                         .sequence = record.sequence.load(kRelaxed),
                         .bytes = record.bytes.load(kRelaxed),
                         .since_beat = since(record.beat_at),
                         .since_seen = since(record.seen_at),
                         .median_step = seconds(record.median_step.load(kRelaxed))});
    }
    return find_hang(views, {.seconds = options_.seconds,
                             .host = host_,
                             .others = static_cast<int>(views.size()) < options_.ranks});
}

}  // namespace fucina
