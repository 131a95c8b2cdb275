#include "launch/rank_facts.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "launch/machine.h"

#include <fmt/format.h>

namespace fucina {
namespace {

constexpr int kClockTag = 1;
constexpr int kClockTries = 20;
constexpr double kClockLimit = 1;  // seconds; file times and logs mislead beyond

double wall_clock() {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration<double>(now).count();
}

// Rank 0 asks each rank for its time several times; the quickest answer counts, as the middle of
// the way there and back.
void compare_clocks(Communicator& communicator, RankFacts& mine) {
    for (int r = 1; r < communicator.size(); ++r) {
        std::array<double, 2> result{0, 1e9};  // offset, half of the way
        for (int i = 0; i < kClockTries && communicator.rank() == 0; ++i) {
            double there = 0;
            const double sent = wall_clock();
            communicator.send({}, r, kClockTag);
            communicator.receive(std::as_writable_bytes(std::span(&there, 1)), r, kClockTag);
            const double half = (wall_clock() - sent) / 2;
            if (half < result[1]) result = {there - sent - half, half};
        }
        for (int i = 0; i < kClockTries && communicator.rank() == r; ++i) {
            communicator.receive({}, 0, kClockTag);
            const double here = wall_clock();
            communicator.send(std::as_bytes(std::span(&here, 1)), 0, kClockTag);
        }
        if (communicator.rank() == 0)
            communicator.send(std::as_bytes(std::span(result)), r, kClockTag);
        if (communicator.rank() == r) {
            communicator.receive(std::as_writable_bytes(std::span(result)), 0, kClockTag);
            mine.clock = result[0];
            mine.clock_exactness = result[1];
        }
    }
}

std::string to_text(const RankFacts& facts) {
    return nlohmann::json{facts.host,    facts.cpus,  facts.nodes,
                          facts.threads, facts.clock, facts.clock_exactness,
                          facts.same}
        .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

RankFacts from_text(const std::string& text) {
    const nlohmann::json json = nlohmann::json::parse(text);
    return {.host = json[0],
            .cpus = json[1].get<std::vector<int>>(),
            .nodes = json[2].get<std::vector<int>>(),
            .threads = json[3],
            .clock = json[4],
            .clock_exactness = json[5],
            .same = json[6].get<Facts>()};
}

std::string rank_and_host(const std::vector<RankFacts>& ranks, size_t rank) {
    return fmt::format("rank {} on {}", rank, ranks[rank].host);
}

// The value that most ranks have; of equally many, that of the lowest rank.
std::string usual_value(const std::vector<RankFacts>& ranks, size_t fact) {
    std::map<std::string, int> counts;
    for (const RankFacts& rank : ranks) ++counts[rank.same[fact].second];
    std::string usual = ranks[0].same[fact].second;
    for (const RankFacts& rank : ranks) {
        const std::string& value = rank.same[fact].second;
        if (counts[value] > counts[usual]) usual = value;
    }
    return usual;
}

}  // namespace

std::vector<RankFacts> gather_rank_facts(Communicator& communicator, int threads, Facts same) {
    const std::vector<int> cpus = affinity_cpus();
    RankFacts mine{.host = host_name(),
                   .cpus = cpus,
                   .nodes = numa_nodes_of(cpus),
                   .threads = threads,
                   .same = std::move(same)};
    compare_clocks(communicator, mine);
    std::vector<RankFacts> ranks;
    for (const std::string& text : gather_texts(communicator, to_text(mine)))
        ranks.push_back(from_text(text));
    return ranks;
}

std::vector<std::string> hosts_of(const std::vector<RankFacts>& ranks) {
    std::vector<std::string> hosts;
    for (const RankFacts& rank : ranks) {
        if (std::find(hosts.begin(), hosts.end(), rank.host) == hosts.end())
            hosts.push_back(rank.host);
    }
    return hosts;
}

Finding rank_places(const std::vector<RankFacts>& ranks) {
    const std::vector<std::string> hosts = hosts_of(ranks);
    Finding finding{
        "ranks",
        fmt::format("{} on {} host{}", ranks.size(), hosts.size(), hosts.size() == 1 ? "" : "s"),
        ""};
    struct Use {
        int threads = 0;
        std::set<int> cpus;
    };
    std::map<std::string, Use> uses;
    for (size_t r = 0; r < ranks.size(); ++r) {
        const RankFacts& rank = ranks[r];
        finding.found +=
            fmt::format("\nrank {:<5} {}, {} thread{} on CPU {}", r, rank.host, rank.threads,
                        rank.threads == 1 ? "" : "s", number_ranges(rank.cpus));
        if (!rank.nodes.empty()) finding.found += ", NUMA node " + number_ranges(rank.nodes);
        uses[rank.host].threads += rank.threads;
        uses[rank.host].cpus.insert(rank.cpus.begin(), rank.cpus.end());
    }
    for (const auto& [host, use] : uses) {
        const auto cpus = static_cast<int>(use.cpus.size());
        if (use.threads > cpus && finding.advice.empty()) {
            finding.advice = fmt::format(
                "{} has {} threads on {} CPU{}: right for a test, slow for training; "
                "give it fewer ranks",
                host, use.threads, cpus, cpus == 1 ? "" : "s");
        }
    }
    return finding;
}

Finding rank_differences(const std::vector<RankFacts>& ranks) {
    Finding finding{"agreement", "", ""};
    std::string names;
    for (size_t fact = 0; fact < ranks[0].same.size(); ++fact) {
        const std::string& name = ranks[0].same[fact].first;
        const std::string usual = usual_value(ranks, fact);
        names += (names.empty() ? "" : ", ") + name;
        for (size_t r = 0; r < ranks.size(); ++r) {
            const std::string& value = ranks[r].same[fact].second;
            if (value == usual) continue;
            finding.advice +=
                fmt::format("{}{}: {} is {}, elsewhere {}", finding.advice.empty() ? "" : "\n",
                            rank_and_host(ranks, r), name, value, usual);
        }
    }
    finding.found = finding.advice.empty() ? "the same on all ranks: " + names
                                           : "ranks differ; the slowest sets the pace";
    return finding;
}

Finding rank_clocks(const std::vector<RankFacts>& ranks) {
    Finding finding{"clocks", "", ""};
    double most = 0;
    for (size_t r = 0; r < ranks.size(); ++r) {
        const RankFacts& rank = ranks[r];
        most = std::max(most, std::abs(rank.clock) + rank.clock_exactness);
        if (std::abs(rank.clock) - rank.clock_exactness <= kClockLimit) continue;
        finding.advice += fmt::format("{}{} is {:.1f} s {}; set the clock there (NTP)",
                                      finding.advice.empty() ? "" : "\n", rank_and_host(ranks, r),
                                      std::abs(rank.clock), rank.clock > 0 ? "ahead" : "behind");
    }
    finding.found = most < 1 ? fmt::format("within {:.3g} ms of rank 0", most * 1e3)
                             : fmt::format("within {:.3g} s of rank 0", most);
    return finding;
}

}  // namespace fucina
