#include "launch/machine.h"

#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "kernels/error.h"

namespace fucina {
namespace {

std::optional<std::string> first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    if (!std::getline(file, line)) return std::nullopt;
    return line;
}

// Our cgroup's directories from the innermost to the root, for one v1 controller, or for v2 with
// controller "".
std::vector<std::string> cgroup_directories(const std::string& controller) {
    std::ifstream file("/proc/self/cgroup");
    std::vector<std::string> directories;
    for (std::string line; std::getline(file, line);) {
        const size_t first = line.find(':');
        const size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string names = line.substr(first + 1, second - first - 1);
        std::istringstream list(names);  // "cpu,cpuacct" in v1, empty in v2
        bool ours = controller.empty() && names.empty();
        for (std::string name; std::getline(list, name, ',');) ours = ours || name == controller;
        if (!ours) continue;
        const std::string root =
            concat("/sys/fs/cgroup", controller.empty() ? "" : "/", controller);
        std::string path = line.substr(second + 1);
        while (!path.empty() && path != "/") {
            directories.push_back(root + path);
            path.resize(path.rfind('/'));
        }
        directories.push_back(root);
    }
    return directories;
}

double quota_v2(const std::string& directory) {
    const std::optional<std::string> line = first_line(directory + "/cpu.max");
    if (!line) return 0;
    std::istringstream words(*line);
    std::string quota;
    double period = 0;
    words >> quota >> period;
    if (quota == "max" || quota.empty() || period <= 0) return 0;
    return std::strtod(quota.c_str(), nullptr) / period;
}

double quota_v1(const std::string& directory) {
    const std::optional<std::string> quota = first_line(directory + "/cpu.cfs_quota_us");
    const std::optional<std::string> period = first_line(directory + "/cpu.cfs_period_us");
    if (!quota || !period) return 0;
    const double microseconds = std::strtod(quota->c_str(), nullptr);
    const double of = std::strtod(period->c_str(), nullptr);
    return microseconds > 0 && of > 0 ? microseconds / of : 0;
}

int64_t number_in(const std::string& path) {
    const std::optional<std::string> line = first_line(path);
    if (!line || line->empty() || !std::isdigit(static_cast<unsigned char>((*line)[0]))) return -1;
    return static_cast<int64_t>(std::strtoull(line->c_str(), nullptr, 10) & INT64_MAX);
}

}  // namespace

std::vector<int> affinity_cpus() {
    std::vector<int> cpus;
    // The kernel refuses a mask smaller than its own, so grow it until it fits.
    for (int count = 1024; count <= (1 << 20); count *= 4) {
        cpu_set_t* set = CPU_ALLOC(count);
        const size_t bytes = CPU_ALLOC_SIZE(count);
        const bool ok = sched_getaffinity(0, bytes, set) == 0;
        for (int cpu = 0; ok && cpu < count; ++cpu) {
            if (CPU_ISSET_S(cpu, bytes, set)) cpus.push_back(cpu);
        }
        CPU_FREE(set);
        if (ok) break;
    }
    return cpus;
}

std::string number_ranges(const std::vector<int>& numbers) {
    std::string text;
    for (size_t i = 0; i < numbers.size();) {
        size_t last = i;
        while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
        text += concat(text.empty() ? "" : ",", numbers[i]);
        if (last > i) text += concat("-", numbers[last]);
        i = last + 1;
    }
    return text;
}

std::vector<int> numa_nodes_of(const std::vector<int>& cpus) {
    std::vector<int> nodes;
    std::error_code error;
    for (const auto& entry :
         std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
        const std::string name = entry.path().filename().string();
        if (name.rfind("node", 0) != 0) continue;
        if (std::any_of(cpus.begin(), cpus.end(), [&](int cpu) {
                return std::filesystem::exists(entry.path() / concat("cpu", cpu), error);
            }))
            nodes.push_back(std::atoi(name.c_str() + 4));
    }
    std::sort(nodes.begin(), nodes.end());
    return nodes;
}

std::string host_name() {
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    return name;
}

double cgroup_cpu_quota() {
    double tightest = 0;
    auto take = [&](double quota) {
        if (quota > 0 && (tightest == 0 || quota < tightest)) tightest = quota;
    };
    for (const std::string& directory : cgroup_directories("")) take(quota_v2(directory));
    for (const std::string& directory : cgroup_directories("cpu")) take(quota_v1(directory));
    return tightest;
}

Memory machine_memory() {
    Memory memory;
    std::ifstream file("/proc/meminfo");
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string key;
        int64_t kibibytes = 0;
        words >> key >> kibibytes;
        if (key == "MemTotal:") memory.total = kibibytes * 1024;
        if (key == "MemAvailable:") memory.available = kibibytes * 1024;
    }
    auto limit = [&](const std::string& limit_path, const std::string& used_path) {
        const int64_t bytes = number_in(limit_path);
        if (bytes <= 0 || bytes >= memory.total) return;
        memory.total = bytes;
        const int64_t used = std::max<int64_t>(0, number_in(used_path));
        memory.available = std::min(memory.available, std::max<int64_t>(0, bytes - used));
    };
    for (const std::string& directory : cgroup_directories("")) {
        limit(directory + "/memory.max", directory + "/memory.current");
    }
    for (const std::string& directory : cgroup_directories("memory")) {
        limit(directory + "/memory.limit_in_bytes", directory + "/memory.usage_in_bytes");
    }
    return memory;
}

int64_t free_disk_bytes(const std::string& path) {
    struct statvfs status {};
    if (statvfs(path.c_str(), &status) != 0) return -1;
    return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
}

}  // namespace fucina
