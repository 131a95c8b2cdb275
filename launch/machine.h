// What this machine gives the process: its name, cores, quota, memory, disk.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace fucina {

// CPU numbers in this thread's affinity mask.
std::vector<int> affinity_cpus();

// Increasing numbers as "0-3,8".
std::string number_ranges(const std::vector<int>& numbers);

// The machine's NUMA nodes that have one of these CPUs; empty where the kernel tells none.
std::vector<int> numa_nodes_of(const std::vector<int>& cpus);

std::string host_name();

// CPUs' worth of time the process's cgroup (v1 or v2, the tightest up to the root) may use; 0: no
// limit.
double cgroup_cpu_quota();

struct Memory {
    int64_t total = 0;      // bytes, the cgroup's limit if that is lower
    int64_t available = 0;  // bytes, likewise
};
Memory machine_memory();

// Free bytes for this user on the file system that holds `path`; -1 if it cannot be told.
int64_t free_disk_bytes(const std::string& path);

}  // namespace fucina
