// The rows of JSON lines, and why a line has none.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace fucina {

// {"text": "..."}, a document; {"prompt": ..., "completion": ...} and {"messages": [...]},
// conversations (data/conversation.h).
enum class RowKind : uint8_t { text, completion, messages };
const char* name_of(RowKind kind);

struct Row {
    RowKind kind = RowKind::text;
    std::string_view text;                         // of a document
    const nlohmann::ordered_json* json = nullptr;  // of a conversation
};

enum class BadLine : uint8_t {
    json,
    utf8,
    not_object,
    no_text,
    not_text,
    empty,
    too_long,
    two_kinds,
    conversation
};
inline constexpr int kBadLineKinds = 9;
const char* name_of(BadLine reason);

// `detail`, where there is more to say than the reason's name, begins
// with the column if there is one.
struct LineFault {
    BadLine reason = BadLine::json;
    std::string detail;
};

}  // namespace fucina
