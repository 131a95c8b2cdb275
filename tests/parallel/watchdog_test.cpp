// Guards against a watchdog that lets a job hang, and against one that ends a job which gets on.
#include "parallel/watchdog.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <future>
#include <vector>

#include "kernels/error.h"

namespace fucina {
namespace {

RankView computing(int rank, Phase phase, double since_beat) {
    return {.rank = rank,
            .process = 1000 + rank,
            .phase = phase,
            .call = Call::all_gather,
            .step = 7,
            .sequence = 117,
            .since_beat = since_beat,
            .median_step = 1};
}
RankView waiting(int rank, double since_beat) {
    RankView view = computing(rank, Phase::reduce, since_beat);
    view.inside = true;
    view.sequence = 118;
    view.bytes = 4096;
    return view;
}
RankView stopped(RankView view) {
    view.since_seen = view.since_beat;
    return view;
}

std::string hang(std::vector<RankView> ranks, bool others = false) {
    return find_hang(ranks, {.seconds = 60, .host = "here", .others = others});
}
std::string first_line(const std::string& text) {
    return text.substr(0, text.find('\n'));
}

TEST(Watchdog, WaitsWhileAnyRankGetsOn) {
    const RankView long_ago = waiting(1, 500);
    EXPECT_EQ(hang({computing(0, Phase::update, 59), long_ago}), "");
    EXPECT_NE(hang({computing(0, Phase::update, 61), long_ago}), "");
    EXPECT_EQ(hang({waiting(0, 59), long_ago}), "");
}

TEST(Watchdog, TakesTenMedianStepsForAStep) {
    RankView slow = computing(0, Phase::forward_backward, 200);
    slow.median_step = 30;
    EXPECT_EQ(hang({slow, waiting(1, 299)}), "");
    slow.since_beat = 301;
    EXPECT_NE(hang({slow, waiting(1, 301)}), "");
}

TEST(Watchdog, GivesLongPhasesTimeWhileTheProcessRuns) {
    for (const Phase phase : {Phase::save, Phase::evaluate, Phase::finish}) {
        EXPECT_EQ(hang({computing(0, phase, 500), waiting(1, 500)}), "") << name_of(phase);
        EXPECT_NE(hang({computing(0, phase, 601), waiting(1, 601)}), "") << name_of(phase);
        EXPECT_NE(hang({stopped(computing(0, phase, 61)), waiting(1, 61)}), "") << name_of(phase);
    }
    EXPECT_EQ(hang({computing(0, Phase::start_up, 1e5), waiting(1, 1e5)}), "");
    EXPECT_NE(hang({stopped(computing(0, Phase::start_up, 61)), waiting(1, 61)}), "");
    RankView first = computing(0, Phase::forward_backward, 500);
    first.median_step = 0;
    RankView other = waiting(1, 500);
    other.median_step = 0;
    EXPECT_EQ(hang({first, other}), "");
}

TEST(Watchdog, MayWaitLongForRanksThatItDoesNotSee) {
    RankView saving = waiting(0, 500);
    saving.phase = Phase::save;
    EXPECT_NE(hang({saving}), "");
    EXPECT_EQ(hang({saving}, true), "");
    EXPECT_NE(hang({waiting(0, 61)}, true), "");
}

TEST(Watchdog, NamesTheRankThatIsBehind) {
    const auto behind = [](std::vector<RankView> ranks, bool others = false) {
        const std::string line = first_line(hang(std::move(ranks), others));
        return line.substr(line.find("): ") + 3, line.find(';') - line.find("): ") - 3);
    };
    EXPECT_EQ(behind({waiting(0, 70), computing(1, Phase::update, 71), waiting(2, 70)}),
              "rank 1 is behind, in update of step 7, after all_gather #117");
    EXPECT_EQ(behind({waiting(0, 70), computing(1, Phase::update, 71), stopped(waiting(2, 70))}),
              "rank 2 is behind, stopped in reduce of step 7, in all_gather #118 of 4096 bytes");
    RankView early = waiting(1, 70);
    early.sequence = 116;
    EXPECT_EQ(behind({waiting(0, 70), early}),
              "rank 1 is behind, in reduce of step 7, in all_gather #116 of 4096 bytes");
    RankView other = waiting(2, 70);
    other.call = Call::barrier;
    other.bytes = 0;
    EXPECT_EQ(behind({waiting(0, 70), waiting(1, 70), other, waiting(3, 70)}),
              "rank 2 is behind, in reduce of step 7, in barrier #118");
    EXPECT_EQ(behind({waiting(0, 70), waiting(1, 70)}), "all wait in the same call, for MPI");
    EXPECT_EQ(behind({waiting(0, 70)}, true),
              "all wait in the same call, for a rank on another machine or the network");
}

TEST(Watchdog, ShowsAllRanks) {
    const std::string text = hang({waiting(0, 70), stopped(computing(1, Phase::update, 71))}, true);
    EXPECT_EQ(text.substr(0, text.find(" (")), "no rank on here has got on for 70 s");
    EXPECT_EQ(text.substr(text.find('\n')), R"(
  rank   process  phase                 step       for  last call
     0      1000  reduce                   7      70 s  in all_gather #118 of 4096 bytes
     1      1001  update                   7      71 s  after all_gather #117; its process does not run
  the other ranks are on another machine)");
}

// The thread: it speaks once, after its limit and not before, and hears of a beat.
TEST(Watchdog, SpeaksAfterItsLimit) {
    std::array<Heartbeat, 2> records;
    for (int r = 0; r < 2; ++r) {
        records[static_cast<size_t>(r)].rank = r;
        records[static_cast<size_t>(r)].inside = true;
        records[static_cast<size_t>(r)].beat_at = monotonic_ns();
    }
    std::promise<std::string> said;
    std::future<std::string> text = said.get_future();
    const Watchdog watchdog({.records = records,
                             .own = records[0],
                             .ranks = 2,
                             .seconds = 1,
                             .hung = [&](const std::string& what) { said.set_value(what); }});
    EXPECT_EQ(text.wait_for(std::chrono::milliseconds(700)), std::future_status::timeout);
    records[0].beat_at = monotonic_ns();
    EXPECT_EQ(text.wait_for(std::chrono::milliseconds(700)), std::future_status::timeout);
    ASSERT_EQ(text.wait_for(std::chrono::seconds(5)), std::future_status::ready);
    EXPECT_NE(text.get().find("rank 1 is behind, stopped in start-up"), std::string::npos);
}

TEST(Watchdog, SaysNothingWhenItIsOff) {
    EXPECT_EQ(find_hang(std::vector<RankView>{waiting(0, 1e6)}, {.seconds = 0}), "");
}

}  // namespace
}  // namespace fucina
