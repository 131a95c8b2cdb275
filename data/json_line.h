// One line of JSON lines: {"text": "..."}, a document.
#pragma once
#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fucina {

enum class BadLine : uint8_t { json, utf8, not_object, no_text, not_text, empty, too_long };
inline constexpr int kBadLineKinds = 7;
const char* name_of(BadLine reason);

// Why a line has no document: `detail`, where there is more to say than the reason's name, begins
// with the column if there is one.
struct LineFault {
    BadLine reason = BadLine::json;
    std::string detail;
};

// Lines are read as Python's json module reads them: numbers of any size, NaN and Infinity, of a
// key given twice the last.
class LineReaderJson {
  public:
    // The text of a line, which is followed by SIMDJSON_PADDING readable bytes; valid until the
    // next call. Nothing, with the fault, where it has none.
    std::optional<std::string_view> text_of(std::string_view line, LineFault& fault);

  private:
    simdjson::dom::parser parser_;
    std::string kept_;
};

}  // namespace fucina
