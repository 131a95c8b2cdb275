#include "launch/link_check.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <span>

#include <fmt/format.h>

namespace fucina {
namespace {

constexpr int kTag = 2;
constexpr size_t kSmall = 8, kLarge = size_t{1} << 20, kCollective = size_t{1} << 20;
// Exchanges of a pair: at least kLeast, then until kSeconds passed or kMost were made.
constexpr int kWarm = 2, kLeast = 5, kMost = 1000;
constexpr double kSeconds = 0.1;
// What stands out: this many times slower than the fastest quarter of its kind, of which there are
// enough. One slow host makes most links of a few hosts slow, so the median would hide it.
constexpr double kSlow = 4;
constexpr size_t kEnough = 3;
// TCP sends again what was lost after 0.2 s at the earliest.
constexpr double kSentAgain = 0.15;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[(values.size() - 1) / 2];
}

// Seconds there and back of messages of `bytes`, at the first of the two ranks; it leads, and tells
// the other in the first byte whether there is more.
std::vector<double> ping_pong(Communicator& communicator, int first, int second, size_t bytes) {
    std::vector<std::byte> data(bytes);
    std::vector<double> times;
    const bool leads = communicator.rank() == first;
    const double begin = now();
    for (int i = 0;; ++i) {
        const double start = now();
        const bool last = i >= kWarm + kLeast && (i >= kWarm + kMost || start - begin > kSeconds);
        if (leads) {
            data[0] = std::byte(last ? 1 : 0);
            communicator.send(data, second, kTag);
            communicator.receive(data, second, kTag);
        } else {
            communicator.receive(data, first, kTag);
            communicator.send(data, first, kTag);
        }
        if (i >= kWarm) times.push_back(now() - start);
        if (data[0] == std::byte{1}) return times;
    }
}

Link measure(Communicator& communicator, int first, int second, bool same_host) {
    const std::vector<double> small = ping_pong(communicator, first, second, kSmall);
    const std::vector<double> large = ping_pong(communicator, first, second, kLarge);
    return {first,
            second,
            same_host,
            median(small) / 2,
            *std::max_element(small.begin(), small.end()) / 2,
            static_cast<double>(kLarge) / (median(large) / 2)};
}

CollectiveTime measure(Communicator& communicator, const std::string& name,
                       const std::function<void()>& body) {
    std::vector<double> times;
    for (int i = 0; i < kWarm + kLeast; ++i) {
        communicator.barrier();
        const double start = now();
        body();
        if (i >= kWarm) times.push_back(now() - start);
    }
    return {name, median(times)};
}

std::vector<CollectiveTime> measure_collectives(Communicator& communicator) {
    const std::vector<std::byte> own(kCollective);
    std::vector<std::byte> all(kCollective * static_cast<size_t>(communicator.size()));
    std::vector<int64_t> counts(kCollective / sizeof(int64_t));
    return {measure(communicator, "all_gather", [&] { communicator.all_gather(own, all); }),
            measure(communicator, "all_reduce", [&] { communicator.all_reduce_sum(counts); })};
}

std::string seconds_text(double seconds) {
    return seconds < 1e-3 ? fmt::format("{:.1f} us", seconds * 1e6)
                          : fmt::format("{:.1f} ms", seconds * 1e3);
}

std::string rate_text(double rate) {
    return rate < 1e9 ? fmt::format("{:.0f} MB/s", rate / 1e6)
                      : fmt::format("{:.1f} GB/s", rate / 1e9);
}

std::string row(const std::string& name, double latency, double worst, double bandwidth) {
    return fmt::format("\n{:<24} {:>10} {:>10} {:>10}", name, seconds_text(latency),
                       seconds_text(worst), rate_text(bandwidth));
}

std::vector<double> values_of(const std::vector<Link>& links, double Link::*value) {
    std::vector<double> values;
    for (const Link& link : links) values.push_back(link.*value);
    return values;
}

// "ranks 0 and 2 (h1, h2)".
std::string name_of(const Link& link, const std::vector<std::string>& hosts) {
    const std::string &one = hosts[static_cast<size_t>(link.first)],
                      &other = hosts[static_cast<size_t>(link.second)];
    return fmt::format("ranks {} and {} ({})", link.first, link.second,
                       one == other ? one : one + ", " + other);
}

// Of one kind: a row, one more for each link that stands out, and what that is.
void add_kind(const std::string& name, const std::vector<Link>& links,
              const std::vector<std::string>& hosts, Finding& finding) {
    if (links.empty()) return;
    std::vector<double> latencies = values_of(links, &Link::latency),
                        bandwidths = values_of(links, &Link::bandwidth);
    std::sort(latencies.begin(), latencies.end());
    std::sort(bandwidths.rbegin(), bandwidths.rend());
    const size_t middle = links.size() / 2, quarter = (links.size() - 1) / 4;
    const double latency = latencies[quarter], bandwidth = bandwidths[quarter];
    double worst = 0;
    for (const Link& link : links) worst = std::max(worst, link.worst);
    finding.found +=
        row(fmt::format("{}, {} link{}", name, links.size(), links.size() == 1 ? "" : "s"),
            latencies[middle], worst, bandwidths[middle]);
    for (const Link& link : links) {
        const bool slow = links.size() >= kEnough &&
                          (link.latency > kSlow * latency || link.bandwidth < bandwidth / kSlow);
        const bool loses = link.worst > kSentAgain;
        if (!slow && !loses) continue;
        finding.found += row("  " + name_of(link, hosts), link.latency, link.worst, link.bandwidth);
        finding.advice += fmt::format(
            "{}{}: {}", finding.advice.empty() ? "" : "\n", name_of(link, hosts),
            slow ? fmt::format("{} and {} where faster links have {} and {}; look at it",
                               seconds_text(link.latency), rate_text(link.bandwidth),
                               seconds_text(latency), rate_text(bandwidth))
                 : fmt::format("a message took {}; the link loses packets, or its hosts are busy",
                               seconds_text(link.worst)));
    }
}

}  // namespace

std::vector<std::vector<std::pair<int, int>>> tournament(int count) {
    // The circle method: one player stays, the others turn; with an odd count one rests.
    const int places = count + count % 2;
    std::vector<std::vector<std::pair<int, int>>> rounds;
    for (int round = 0; round + 1 < places; ++round) {
        rounds.emplace_back();
        for (int i = 0; i < places / 2; ++i) {
            const auto player = [&](int place) {
                return place == 0 ? 0 : 1 + (place - 1 + round) % (places - 1);
            };
            const auto [low, high] = std::minmax({player(i), player(places - 1 - i)});
            if (high < count) rounds.back().emplace_back(low, high);
        }
    }
    return rounds;
}

LinkTimes measure_links(Communicator& communicator, const std::vector<std::string>& hosts) {
    // The ranks of each host, hosts in the order of their first ranks.
    std::vector<std::vector<int>> members;
    for (int r = 0; r < communicator.size(); ++r) {
        const std::string& host = hosts[static_cast<size_t>(r)];
        const auto known = std::find_if(members.begin(), members.end(), [&](const auto& ranks) {
            return hosts[static_cast<size_t>(ranks[0])] == host;
        });
        if (known == members.end())
            members.push_back({r});
        else
            known->push_back(r);
    }
    LinkTimes times;
    // Pairs of one round are measured at once; then their first ranks tell rank 0.
    const auto meet = [&](const std::vector<std::pair<int, int>>& pairs, bool same_host) {
        communicator.barrier();
        std::array<double, 3> mine{};
        for (const auto& [first, second] : pairs) {
            if (communicator.rank() != first && communicator.rank() != second) continue;
            const Link link = measure(communicator, first, second, same_host);
            mine = {link.latency, link.worst, link.bandwidth};
        }
        std::vector<std::array<double, 3>> all(static_cast<size_t>(communicator.size()));
        communicator.all_gather(std::as_bytes(std::span(mine)),
                                std::as_writable_bytes(std::span(all)));
        for (const auto& [first, second] : pairs) {
            const auto& [latency, worst, bandwidth] = all[static_cast<size_t>(first)];
            times.links.push_back({first, second, same_host, latency, worst, bandwidth});
        }
    };
    std::vector<std::pair<int, int>> within;
    for (const std::vector<int>& ranks : members)
        if (ranks.size() > 1) within.emplace_back(ranks[0], ranks[1]);
    if (!within.empty()) meet(within, true);
    for (const auto& round : tournament(static_cast<int>(members.size()))) {
        std::vector<std::pair<int, int>> pairs;
        for (const auto& [one, other] : round) {
            pairs.emplace_back(members[static_cast<size_t>(one)][0],
                               members[static_cast<size_t>(other)][0]);
        }
        meet(pairs, false);
    }
    times.collectives = measure_collectives(communicator);
    return times;
}

Finding link_table(const LinkTimes& times, const std::vector<std::string>& hosts) {
    Finding finding{"links",
                    fmt::format("{:<13} {:>10} {:>10} {:>10}", "", "latency", "worst", "bandwidth"),
                    ""};
    std::vector<Link> within, between;
    for (const Link& link : times.links) (link.same_host ? within : between).push_back(link);
    add_kind("same host", within, hosts, finding);
    add_kind("other host", between, hosts, finding);
    for (const CollectiveTime& time : times.collectives) {
        finding.found += fmt::format("\n{:<24} {:>10}", time.name + ", 1 MiB a rank",
                                     seconds_text(time.seconds));
    }
    return finding;
}

}  // namespace fucina
