// What `fucina doctor` asks every rank of a job: where it runs, on which cores, and what must be
// the same everywhere.
#pragma once
#include <string>
#include <vector>

#include "launch/finding.h"
#include "parallel/agreement.h"
#include "parallel/communicator.h"

namespace fucina {

struct RankFacts {
    std::string host;
    std::vector<int> cpus;   // of the affinity mask
    std::vector<int> nodes;  // the NUMA nodes of these; empty if the machine tells none
    int threads = 0;
    double clock = 0;            // seconds that its wall clock is ahead of rank 0's
    double clock_exactness = 0;  // seconds; the offset is right within it
    Facts same;                  // should be equal on all ranks
};

// Collective: every rank's facts, in rank order, on all ranks. `same`: those of this rank.
std::vector<RankFacts> gather_rank_facts(Communicator& communicator, int threads, Facts same);

// The hosts' names, each once, in the order of their first ranks.
std::vector<std::string> hosts_of(const std::vector<RankFacts>& ranks);

// Where each rank runs; advice where a host's ranks have more threads than CPUs.
Finding rank_places(const std::vector<RankFacts>& ranks);
// Which ranks differ from most others, in what.
Finding rank_differences(const std::vector<RankFacts>& ranks);
// Which wall clocks are more than a second apart from rank 0's.
Finding rank_clocks(const std::vector<RankFacts>& ranks);

}  // namespace fucina
