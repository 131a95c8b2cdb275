// What `fucina doctor` says on one topic.
#pragma once
#include <string>

namespace fucina {

struct Finding {
    std::string topic;
    std::string found;   // further lines of a table follow after '\n'
    std::string advice;  // what to do; empty: all is well
};

}  // namespace fucina
