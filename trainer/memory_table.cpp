#include <fmt/format.h>

#include "kernels/arena.h"
#include "trainer/memory_plan.h"
#include "trainer/process_memory.h"

namespace fucina {

std::vector<std::string> memory_table(const MemoryPlan& plan, const Exec& exec, bool measured) {
    std::vector<std::string> lines{measured ? "memory           predicted     measured"
                                            : "memory           predicted"};
    const auto add = [&](const std::string& name, int64_t predicted, int64_t most) {
        if (predicted == 0 && most == 0) return;
        lines.push_back(
            fmt::format("  {:<16}{:>9.1f} MiB", name, static_cast<double>(predicted) / (1 << 20)));
        if (measured)
            lines.back() += fmt::format("{:>9.1f} MiB", static_cast<double>(most) / (1 << 20));
    };
    const Arena& arena = exec.on_host() ? Arena::process() : *exec.arena;
    const std::vector<MemoryUse> used = arena.table();
    const auto most_of = [&](const std::string& purpose) {
        for (const MemoryUse& use : used) {
            if (use.purpose == purpose) return use.peak;
        }
        return int64_t{0};
    };
    for (const auto& [purpose, bytes] : plan.predicted)
        add(purpose, bytes, purpose == kProgramPurpose ? program_bytes() : most_of(purpose));
    for (const MemoryUse& use : used) {
        if (!plan.has(use.purpose)) add(use.purpose, 0, use.peak);
    }
    add("in all", plan.total(), process_bytes("VmHWM"));
    const auto add_more = [&](const std::string& when, int64_t bytes) {
        if (bytes > 0)
            lines.push_back(fmt::format("  {}, up to {:.1f} MiB more", when,
                                        static_cast<double>(bytes) / (1 << 20)));
    };
    add_more("if routing is uneven", plan.uneven);
    add_more("beside a save", plan.snapshot);
    return lines;
}

}  // namespace fucina
