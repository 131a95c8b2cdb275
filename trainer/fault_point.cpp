#include "trainer/fault_point.h"

#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <new>
#include <string>

#include "kernels/error.h"

namespace fucina {
namespace {

struct Fault {
    std::string name, thrown;
    int rank = 0, nth = 1, signal = SIGKILL;
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

}  // namespace

void fault_point(std::string_view name, int rank) {
    static Fault fault = read_fault();
    if (fault.name.empty() || fault.name != name || fault.rank != rank) return;
    if (--fault.nth == 0) happen(fault);
}

}  // namespace fucina
