// How fast ranks talk: between pairs of them, and all together. What is timed are the calls that
// training makes (parallel/communicator.h).
#pragma once
#include <string>
#include <vector>

#include "launch/finding.h"
#include "parallel/communicator.h"

namespace fucina {

// Between two ranks.
struct Link {
    int first = 0, second = 0;
    bool same_host = false;
    double latency = 0;    // seconds one way, 8 bytes, median
    double worst = 0;      // the longest of these
    double bandwidth = 0;  // bytes a second one way, 1 MiB, median
};

// One collective of all ranks.
struct CollectiveTime {
    std::string name;
    double seconds = 0;  // of 1 MiB a rank, median
};

struct LinkTimes {
    std::vector<Link> links;  // of one rank of each host with one of each other, and of the first
                              // two ranks of each host
    std::vector<CollectiveTime> collectives;
};

// Collective; the times are rank 0's alone. hosts: each rank's host.
LinkTimes measure_links(Communicator& communicator, const std::vector<std::string>& hosts);

// A table, and advice that names links which stand out among those of their kind: several times
// slower than their median, or with a message that took long enough to have been lost and sent
// again.
Finding link_table(const LinkTimes& times, const std::vector<std::string>& hosts);

// Rounds in which each of `count` players meets each other one once; nobody is in two pairs of a
// round.
std::vector<std::vector<std::pair<int, int>>> tournament(int count);

}  // namespace fucina
