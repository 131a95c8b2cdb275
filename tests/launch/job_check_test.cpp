// What `fucina doctor` says of a job's ranks and links.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "launch/link_check.h"
#include "launch/machine.h"
#include "launch/rank_facts.h"
#include "parallel/thread_communicator.h"

namespace fucina {
namespace {

using ::testing::HasSubstr;

std::vector<RankFacts> four_ranks() {
    std::vector<RankFacts> ranks(4);
    for (size_t r = 0; r < 4; ++r) {
        ranks[r] = {.host = r < 2 ? "one" : "two",
                    .cpus = r % 2 == 0 ? std::vector{0, 1, 2, 3} : std::vector{4, 5, 6, 7},
                    .nodes = {0},
                    .threads = 4,
                    .same = {{"CPU", "AVX-512"}, {"byte order", "little-endian"}}};
    }
    return ranks;
}

TEST(RankFacts, PlacesAndHosts) {
    std::vector<RankFacts> ranks = four_ranks();
    EXPECT_EQ(hosts_of(ranks), (std::vector<std::string>{"one", "two"}));
    const Finding well = rank_places(ranks);
    EXPECT_EQ(well.advice, "");
    EXPECT_THAT(well.found,
                HasSubstr("4 on 2 hosts\nrank 0     one, 4 threads on CPU 0-3, NUMA node 0"));
    ranks[3].cpus = {3, 4};  // beside 0 to 3 of rank 2
    EXPECT_THAT(rank_places(ranks).advice, HasSubstr("two has 8 threads on 5 CPUs"));
}

TEST(RankFacts, TheOddRankIsNamed) {
    std::vector<RankFacts> ranks = four_ranks();
    EXPECT_EQ(rank_differences(ranks).advice, "");
    EXPECT_EQ(rank_differences(ranks).found, "the same on all ranks: CPU, byte order");
    ranks[0].same[0].second = "AVX2";
    EXPECT_EQ(rank_differences(ranks).advice, "rank 0 on one: CPU is AVX2, elsewhere AVX-512");
    ranks[3].same[1].second = "big-endian";
    EXPECT_EQ(rank_differences(ranks).advice,
              "rank 0 on one: CPU is AVX2, elsewhere AVX-512\n"
              "rank 3 on two: byte order is big-endian, elsewhere little-endian");
}

TEST(RankFacts, AClockThatIsWrongIsNamed) {
    std::vector<RankFacts> ranks = four_ranks();
    ranks[1].clock = -0.75;
    EXPECT_EQ(rank_clocks(ranks).advice, "");
    EXPECT_EQ(rank_clocks(ranks).found, "within 750 ms of rank 0");
    ranks[2].clock = -86400;
    EXPECT_EQ(rank_clocks(ranks).advice,
              "rank 2 on two is 86400.0 s behind; set the clock there (NTP)");
    ranks[2].clock_exactness = 86399.5;  // it may as well be right
    EXPECT_EQ(rank_clocks(ranks).advice, "");
}

TEST(Links, EveryPairMeetsOnceAndNobodyTwiceInARound) {
    for (int count = 1; count <= 9; ++count) {
        std::set<std::pair<int, int>> met;
        const auto rounds = tournament(count);
        EXPECT_LE(rounds.size(), static_cast<size_t>(count));
        for (const auto& round : rounds) {
            std::set<int> busy;
            for (const auto& [one, other] : round) {
                EXPECT_LT(one, other);
                EXPECT_LT(other, count);
                EXPECT_TRUE(busy.insert(one).second && busy.insert(other).second);
                EXPECT_TRUE(met.insert({one, other}).second);
            }
        }
        EXPECT_EQ(met.size(), static_cast<size_t>(count * (count - 1) / 2));
    }
}

TEST(Links, WhatStandsOutIsNamed) {
    const std::vector<std::string> hosts = {"a", "a", "b", "c"};
    LinkTimes times{{{0, 1, true, 1e-6, 2e-6, 5e9},
                     {0, 2, false, 20e-6, 90e-6, 1e9},
                     {0, 3, false, 21e-6, 90e-6, 1.1e9},
                     {2, 3, false, 22e-6, 90e-6, 1e9}},
                    {{"all_gather", 4e-3}}};
    const Finding well = link_table(times, hosts);
    EXPECT_EQ(well.advice, "");
    EXPECT_THAT(well.found,
                HasSubstr("\nother host, 3 links         21.0 us    90.0 us   1.0 GB/s\n"
                          "all_gather, 1 MiB a rank     4.0 ms"));
    times.links[1].bandwidth = times.links[3].bandwidth = 1e8;  // host b
    EXPECT_EQ(link_table(times, hosts).advice,
              "ranks 0 and 2 (a, b): 20.0 us and 100 MB/s where faster links have 20.0 us and 1.1 "
              "GB/s; look at it\n"
              "ranks 2 and 3 (b, c): 22.0 us and 100 MB/s where faster links have 20.0 us and 1.1 "
              "GB/s; look at it");
    times.links[1].bandwidth = times.links[3].bandwidth = 1e9;
    times.links[2].worst = 0.21;
    EXPECT_EQ(link_table(times, hosts).advice,
              "ranks 0 and 3 (a, c): a message took 210.0 ms; the link loses packets, or its hosts "
              "are busy");
}

TEST(Links, AreMeasuredBetweenAllHosts) {
    const std::vector<std::string> hosts = {"a", "b", "a", "c", "a"};
    LinkTimes times;
    run_on_threads(5, [&](Communicator& communicator) {
        const LinkTimes mine = measure_links(communicator, hosts);
        if (communicator.rank() == 0) times = mine;
    });
    std::set<std::pair<int, int>> within, between;
    for (const Link& link : times.links) {
        (link.same_host ? within : between).insert({link.first, link.second});
        EXPECT_GT(link.latency, 0);
        EXPECT_GE(link.worst, link.latency);
        EXPECT_GT(link.bandwidth, 0);
    }
    EXPECT_EQ(within, (std::set<std::pair<int, int>>{{0, 2}}));
    EXPECT_EQ(between, (std::set<std::pair<int, int>>{{0, 1}, {0, 3}, {1, 3}}));
    EXPECT_EQ(times.collectives.size(), 2u);
}

TEST(Machine, CpusAsRanges) {
    EXPECT_EQ(number_ranges({}), "");
    EXPECT_EQ(number_ranges({3}), "3");
    EXPECT_EQ(number_ranges({0, 1, 2, 5, 8, 9}), "0-2,5,8-9");
    EXPECT_NE(host_name(), "");
}

}  // namespace
}  // namespace fucina
