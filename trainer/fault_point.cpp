#include "trainer/fault_point.h"

#include <signal.h>

#include <cstdlib>
#include <string>

namespace fucina {
namespace {

struct Fault {
    std::string name;
    int rank = 0, nth = 1;
};

Fault read_fault() {
    const char* text = std::getenv("FUCINA_FAULT");
    Fault fault;
    if (text == nullptr) return fault;
    std::string rest = text;
    fault.name = rest.substr(0, rest.find(','));
    const auto number = [&](const std::string& key, int otherwise) {
        const size_t at = rest.find("," + key + "=");
        return at == std::string::npos ? otherwise : std::atoi(rest.c_str() + at + key.size() + 2);
    };
    fault.rank = number("rank", 0);
    fault.nth = number("nth", 1);
    return fault;
}

}  // namespace

void fault_point(std::string_view name, int rank) {
    static Fault fault = read_fault();
    if (fault.name.empty() || fault.name != name || fault.rank != rank) return;
    if (--fault.nth == 0) raise(SIGKILL);
}

}  // namespace fucina
