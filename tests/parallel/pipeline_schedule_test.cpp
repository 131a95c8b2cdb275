// Guards against a schedule that waits for ever, does something twice or never, or is slower or
// keeps more than what it is known for. Schedules run here on clocks alone.
#include "parallel/pipeline_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace fucina {
namespace {

struct Costs {
    int64_t forward = 1, backward = 2, weight_grads = 0;  // of a chunk
};

struct Simulated {
    int64_t seconds = 0;          // until the last rank is done
    std::vector<int> most_alive;  // per rank: forwards whose last action is still to come
    std::vector<int64_t> idle;    // per rank, of all the seconds
    bool ended = true;            // false: ranks wait for each other
};

class Simulation {
  public:
    Simulation(Schedule schedule, int ranks, int micro_batches, int chunks, const Costs& costs)
        : ranks_(ranks), chunks_(chunks), costs_(costs), zero_(schedule == Schedule::zero_bubble) {
        for (int rank = 0; rank < ranks; ++rank)
            lists_.push_back(schedule_actions(schedule, ranks, rank, micro_batches, chunks));
    }

    Simulated run() {
        Simulated result;
        std::vector<size_t> next(lists_.size(), 0);
        std::vector<int64_t> clock(lists_.size(), 0), busy(lists_.size(), 0);
        for (bool moved = true; moved;) {
            moved = false;
            for (size_t rank = 0; rank < lists_.size(); ++rank) {
                while (next[rank] < lists_[rank].size()) {
                    const Action& action = lists_[rank][next[rank]];
                    const int64_t ready = ready_at(action, static_cast<int>(rank));
                    if (ready < 0) break;
                    const int64_t cost = cost_of(action);
                    clock[rank] = std::max(clock[rank], ready) + cost;
                    busy[rank] += cost;
                    done_[{action.kind, action.micro_batch,
                           stage(action, static_cast<int>(rank))}] = clock[rank];
                    ++next[rank];
                    moved = true;
                }
            }
        }
        for (size_t rank = 0; rank < lists_.size(); ++rank) {
            result.ended = result.ended && next[rank] == lists_[rank].size();
            result.seconds = std::max(result.seconds, clock[rank]);
        }
        for (size_t rank = 0; rank < lists_.size(); ++rank) {
            result.idle.push_back(result.seconds - busy[rank]);
            result.most_alive.push_back(most_alive(lists_[rank]));
        }
        return result;
    }

  private:
    int stage(const Action& action, int rank) const { return action.chunk * ranks_ + rank; }
    int64_t cost_of(const Action& action) const {
        if (action.kind == Action::forward) return costs_.forward;
        return action.kind == Action::backward ? costs_.backward : costs_.weight_grads;
    }
    // -1: what it needs is not there.
    int64_t ready_at(const Action& action, int rank) const {
        const auto at = [&](Action::Kind kind, int stage) {
            const auto found = done_.find({kind, action.micro_batch, stage});
            return found == done_.end() ? int64_t{-1} : found->second;
        };
        const int here = stage(action, rank), last = ranks_ * chunks_ - 1;
        if (action.kind == Action::forward) return here == 0 ? 0 : at(Action::forward, here - 1);
        if (action.kind == Action::weight_grads) return at(Action::backward, here);
        const int64_t saved = at(Action::forward, here);
        if (here == last || saved < 0) return saved;
        const int64_t gradient = at(Action::backward, here + 1);
        return gradient < 0 ? gradient : std::max(saved, gradient);
    }
    int most_alive(const std::vector<Action>& actions) const {
        int alive = 0, most = 0;
        for (const Action& action : actions) {
            if (action.kind == Action::forward) most = std::max(most, ++alive);
            alive -= action.kind == (zero_ ? Action::weight_grads : Action::backward);
        }
        return most;
    }

    const int ranks_, chunks_;
    const Costs costs_;
    const bool zero_;
    std::vector<std::vector<Action>> lists_;
    std::map<std::tuple<Action::Kind, int, int>, int64_t> done_;
};

Simulated simulate(Schedule schedule, int ranks, int micro_batches, int chunks,
                   const Costs& costs) {
    return Simulation(schedule, ranks, micro_batches, chunks, costs).run();
}

struct Case {
    Schedule schedule;
    int chunks;
};
const std::vector<Case> kCases{{Schedule::one_forward_one_backward, 1},
                               {Schedule::interleaved, 2},
                               {Schedule::interleaved, 3},
                               {Schedule::zero_bubble, 1}};

TEST(PipelineSchedule, NeverWaitsForEver) {
    for (const Case& one : kCases)
        for (int ranks = 1; ranks <= 9; ++ranks)
            for (int micro_batches = 0; micro_batches <= 21; ++micro_batches)
                EXPECT_TRUE(simulate(one.schedule, ranks, micro_batches, one.chunks, {}).ended)
                    << ranks << " ranks, " << micro_batches << " micro-batches, " << one.chunks;
}

// In ascending order of micro-batches, which sums of gradients rely on.
TEST(PipelineSchedule, DoesEverythingOnceAndInOrder) {
    for (const Case& one : kCases) {
        for (int ranks = 1; ranks <= 5; ++ranks) {
            for (const int micro_batches : {1, 2, 3, 5, 8}) {
                for (int rank = 0; rank < ranks; ++rank) {
                    std::map<std::pair<int, Action::Kind>, int> next;
                    for (const Action& action :
                         schedule_actions(one.schedule, ranks, rank, micro_batches, one.chunks)) {
                        EXPECT_EQ(action.micro_batch, (next[{action.chunk, action.kind}]++));
                    }
                    const bool waits = one.schedule == Schedule::zero_bubble;
                    EXPECT_EQ(std::ssize(next), one.chunks * (waits ? 3 : 2));
                    for (const auto& [what, count] : next) EXPECT_EQ(count, micro_batches);
                }
            }
        }
    }
}

TEST(PipelineSchedule, BubblesAreTheKnownOnes) {
    for (const int ranks : {2, 3, 4, 8}) {
        for (const int micro_batches : {ranks, 2 * ranks, 4 * ranks}) {
            const int64_t ahead = ranks - 1;
            const auto idle = [&](Schedule schedule, int chunks, const Costs& costs) {
                return simulate(schedule, ranks, micro_batches, chunks, costs).idle;
            };
            const auto all = [&](int64_t seconds) {
                return std::vector<int64_t>(static_cast<size_t>(ranks), seconds);
            };
            EXPECT_EQ(idle(Schedule::one_forward_one_backward, 1, {4, 8, 0}), all(ahead * 12));
            EXPECT_EQ(idle(Schedule::interleaved, 2, {2, 4, 0}), all(ahead * 6));
            EXPECT_EQ(idle(Schedule::interleaved, 4, {1, 2, 0}), all(ahead * 3));
            EXPECT_EQ(idle(Schedule::zero_bubble, 1, {4, 4, 4}), all(ahead * 4));
        }
    }
}

TEST(PipelineSchedule, KeepsNoMoreThanTheKnownNumberOfMicroBatches) {
    for (const int ranks : {1, 2, 4, 7}) {
        for (const int micro_batches : {1, 3, 4, 7, 16}) {
            const auto alive = [&](Schedule schedule, int chunks) {
                return simulate(schedule, ranks, micro_batches, chunks, {}).most_alive;
            };
            for (int rank = 0; rank < ranks; ++rank) {
                const auto r = static_cast<size_t>(rank);
                EXPECT_EQ(alive(Schedule::one_forward_one_backward, 1)[r],
                          std::min(ranks - rank, micro_batches));
                EXPECT_LE(alive(Schedule::zero_bubble, 1)[r], std::min(ranks, micro_batches));
                if (micro_batches % ranks != 0) continue;
                EXPECT_EQ(alive(Schedule::interleaved, 3)[r],
                          std::min(2 * (ranks - rank - 1) + 2 * ranks + 1, 3 * micro_batches));
            }
        }
    }
}

// What the bubble costs where weight gradients wait is less than where they do not.
TEST(PipelineSchedule, ZeroBubbleIsFaster) {
    for (const int ranks : {2, 4, 6}) {
        for (const int micro_batches : {2, 5, 12}) {
            EXPECT_LT(
                simulate(Schedule::zero_bubble, ranks, micro_batches, 1, {3, 3, 3}).seconds,
                simulate(Schedule::one_forward_one_backward, ranks, micro_batches, 1, {3, 6, 0})
                    .seconds);
        }
    }
}

}  // namespace
}  // namespace fucina
