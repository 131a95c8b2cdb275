// The reader of one line of JSON lines: {"text": "..."}, a document. Apart from json_line.h, since
// simdjson's header takes seconds to compile.
#pragma once
#include <simdjson.h>

#include <optional>
#include <string>
#include <string_view>

#include "data/json_line.h"

namespace fucina {

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
