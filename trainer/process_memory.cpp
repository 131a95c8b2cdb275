#include "trainer/process_memory.h"

#include <algorithm>
#include <fstream>

#include "kernels/arena.h"

namespace fucina {

int64_t process_bytes(const std::string& key) {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        int64_t kilobytes = 0;
        if (word == key + ":" && status >> kilobytes) return 1024 * kilobytes;
    }
    return 0;
}

int64_t program_bytes() {
    return std::max<int64_t>(process_bytes("VmRSS") - Arena::process().resident(), 0);
}

}  // namespace fucina
