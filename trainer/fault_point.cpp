#include "trainer/fault_point.h"

#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <thread>

#include "kernels/error.h"

namespace fucina {
namespace {

struct Fault {
    std::string name, thrown;
    int rank = 0, nth = 1, signal = SIGKILL, sleep = 0, times = 0;
};

Fault read_fault() {
    const char* text = std::getenv("FUCINA_FAULT");
    Fault fault;
    if (text == nullptr) return fault;
    std::string rest = text;
    fault.name = rest.substr(0, rest.find(','));
    const auto value = [&](const std::string& key) {
        const size_t at = rest.find("," + key + "=");
        if (at == std::string::npos) return std::string();
        const size_t begin = at + key.size() + 2;
        return rest.substr(begin, rest.find(',', begin) - begin);
    };
    const auto number = [&](const std::string& key, int otherwise) {
        const std::string digits = value(key);
        return digits.empty() ? otherwise : std::atoi(digits.c_str());
    };
    fault.rank = number("rank", 0);
    fault.nth = number("nth", 1);
    fault.signal = number("signal", SIGKILL);
    fault.sleep = number("sleep", 0);
    fault.times = number("times", std::numeric_limits<int>::max());
    fault.thrown = value("throw");
    return fault;
}

void happen(const Fault& fault) {
    if (fault.thrown == "error") fail(ExitCode::storage, "fault at ", fault.name);
    if (fault.thrown == "memory") throw std::bad_alloc();
    if (fault.thrown == "filesystem") {
        throw std::filesystem::filesystem_error("fault at", fault.name,
                                                std::make_error_code(std::errc::io_error));
    }
    if (fault.thrown == "other") throw fault.nth;
    raise(fault.signal);
}

// Counts a pass; 0 at the N-th, negative from then on.
std::optional<int> passes_left(Fault& fault, std::string_view name, int rank) {
    if (fault.name.empty() || fault.name != name || fault.rank != rank) return std::nullopt;
    return --fault.nth;
}

Fault& the_fault() {
    static Fault fault = read_fault();
    return fault;
}

}  // namespace

void fault_point(std::string_view name, int rank) {
    Fault& fault = the_fault();
    const std::optional<int> left = passes_left(fault, name, rank);
    if (!left) return;
    if (fault.sleep > 0) {
        if (*left <= 0 && fault.times-- > 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(fault.sleep));
    } else if (*left == 0) {
        happen(fault);
    }
}

bool fault_here(std::string_view name, int rank) {
    return passes_left(the_fault(), name, rank) == 0;
}

}  // namespace fucina
