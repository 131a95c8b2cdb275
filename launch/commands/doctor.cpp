// `fucina doctor`: what this machine offers, line by line, with what to do where it is not enough;
// under mpirun also whether the ranks agree, and how fast they talk.
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "kernels/cuda/runtime.h"
#include "kernels/error.h"
#include "kernels/runtime.h"
#include "launch/commands.h"
#include "launch/finding.h"
#include "launch/link_check.h"
#include "launch/machine.h"
#include "launch/process.h"
#include "launch/rank_facts.h"

#include <fmt/format.h>

namespace fucina {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

Finding processor() {
    Finding finding{"processor", describe_runtime(), ""};
    if (runtime().level < best_isa()) {
        finding.advice = concat("FUCINA_ISA forces ", name_of(runtime().level), " where ",
                                name_of(best_isa()), " works; unset it");
    } else if (best_isa() == IsaLevel::scalar) {
        finding.advice = "no AVX2: everything works, but slowly; take a newer processor";
    }
    return finding;
}

Finding cores(int threads, int ranks) {
    const auto cpus = static_cast<int>(affinity_cpus().size());
    const double quota = cgroup_cpu_quota();
    Finding finding{"cores", fmt::format("{} in the affinity mask, ", cpus), ""};
    finding.found += quota > 0 ? fmt::format("quota {:.4g}", quota) : std::string("no quota");
    finding.found += fmt::format("; {} rank{} here, {} thread{} for this one", ranks,
                                 ranks == 1 ? "" : "s", threads, threads == 1 ? "" : "s");
    const double room = quota > 0 ? std::min<double>(quota, cpus) : cpus;
    if (std::getenv("FUCINA_THREADS") != nullptr && threads > room) {
        finding.advice = "FUCINA_THREADS is more than there are cores; unset it";
    } else if (ranks > 1 && threads == 1 && ranks > std::max(room, 1.0) * 1.01 && cpus > 1) {
        finding.advice = "more ranks than cores: right for a test, slow for training; lower -np";
    }
    return finding;
}

Finding memory() {
    const Memory memory = machine_memory();
    Finding finding{
        "memory",
        fmt::format("{:.1f} GiB free of {:.1f}", static_cast<double>(memory.available) / kGiB,
                    static_cast<double>(memory.total) / kGiB),
        ""};
    constexpr double kEnough = 2 * kGiB;  // the quickstart
    if (static_cast<double>(memory.available) < kEnough) {
        finding.advice = "less than 2 GiB, which the quickstart needs; end other programs";
    }
    return finding;
}

Finding disk() {
    std::error_code error;
    const std::string here = std::filesystem::current_path(error).string();
    const auto free = static_cast<double>(free_disk_bytes(here));
    Finding finding{"disk", fmt::format("{:.1f} GiB free at {}", free / kGiB, here), ""};
    if (free < 0) return {"disk", "cannot be told at " + here, "go to a directory that exists"};
    if (free < 2 * kGiB) finding.advice = "less than 2 GiB for checkpoints; put run.dir elsewhere";
    return finding;
}

bool on_path(const std::string& program) {
    const char* path = std::getenv("PATH");
    std::istringstream folders(path == nullptr ? "" : path);
    for (std::string folder; std::getline(folders, folder, ':');) {
        std::error_code error;
        if (std::filesystem::exists(folder + "/" + program, error)) return true;
    }
    return false;
}

Finding gpu() {
    if constexpr (kWithCuda) return {"GPU", cuda::describe_device(), ""};
    return {"GPU", "this program was built without CUDA", ""};
}

std::string mpi_version() {
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(version, &length);  // allowed before MPI_Init
    const std::string name(version, static_cast<size_t>(length));
    return name.substr(0, name.find_first_of(",\n"));
}

Finding mpi() {
    Finding finding{"MPI",
                    concat(mpi_version(), process().with_mpi()
                                              ? concat("; running, ", process().size(), " ranks")
                                              : "; not running, one process"),
                    ""};
    if (!on_path("mpirun"))
        finding.advice = "mpirun is not on PATH; bash launch/setup.sh installs it";
    return finding;
}

// "vdpbf16 fma": the orders of products that this rank's CPU has.
std::string orders_offered() {
    std::string names;
    for (const ProductOrder order : {ProductOrder::amx, ProductOrder::vdpbf16, ProductOrder::fma}) {
        if (offers(order)) names += concat(names.empty() ? "" : " ", name_of(order));
    }
    return names;
}

std::vector<Finding> job(int threads) {
    const auto communicator = process().make_communicator();
    const bool little = std::endian::native == std::endian::little;
    const std::vector<RankFacts> ranks =
        gather_rank_facts(*communicator, threads,
                          {{"CPU", describe_runtime()},
                           {"orders of products", orders_offered()},
                           {"byte order", little ? "little-endian" : "big-endian"},
                           {"MPI", mpi_version()}});
    std::vector<std::string> hosts;
    for (const RankFacts& rank : ranks) hosts.push_back(rank.host);
    return {rank_places(ranks), rank_differences(ranks), rank_clocks(ranks),
            link_table(measure_links(*communicator, hosts), hosts)};
}

// Further lines stand under the first.
std::string indented(const std::string& text, int spaces) {
    std::string result;
    for (char c : text) {
        result += c;
        if (c == '\n') result.append(static_cast<size_t>(spaces), ' ');
    }
    return result;
}

void run_doctor() {
    const int threads = process().use_threads(0);
    std::vector<Finding> findings{
        processor(), cores(threads, process().local_size()), memory(), disk(), gpu(), mpi()};
    if (process().size() > 1) {
        for (const Finding& finding : job(threads)) findings.push_back(finding);
    }
    if (process().rank() != 0) return;
    int warnings = 0;
    for (const Finding& finding : findings) {
        std::cout << fmt::format("{:<5} {:<10} {}\n", finding.advice.empty() ? "OK" : "WARN",
                                 finding.topic, indented(finding.found, 6));
        if (finding.advice.empty()) continue;
        std::cout << fmt::format("{:<17}→ {}\n", "", indented(finding.advice, 19));
        ++warnings;
    }
    std::cout << (warnings == 0
                      ? "ready to train: bash launch/quickstart.sh\n"
                      : fmt::format("{} warning{}\n", warnings, warnings == 1 ? "" : "s"));
}

}  // namespace

void add_doctor_command(Command app) {
    app.subcommand("doctor",
                   "Look at this machine: processor, cores, memory, disk, MPI; under mpirun at the "
                   "job's links")
        .run(run_doctor);
}

}  // namespace fucina
