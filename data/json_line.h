// Why a line of JSON lines, {"text": "..."}, has no document.
#pragma once
#include <cstdint>
#include <string>

namespace fucina {

enum class BadLine : uint8_t { json, utf8, not_object, no_text, not_text, empty, too_long };
inline constexpr int kBadLineKinds = 7;
const char* name_of(BadLine reason);

// `detail`, where there is more to say than the reason's name, begins
// with the column if there is one.
struct LineFault {
    BadLine reason = BadLine::json;
    std::string detail;
};

}  // namespace fucina
