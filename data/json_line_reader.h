// The reader of one line of JSON lines. Apart from json_line.h, since simdjson's header takes
// seconds to compile.
#pragma once
#include <simdjson.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/json_line.h"

namespace fucina {

// Lines are read as Python's json module reads them: numbers of any size, NaN and Infinity, of a
// key given twice the last.
class LineReaderJson {
  public:
    // The row of a line, which is followed by SIMDJSON_PADDING readable bytes; valid until the
    // next call. Its keys say of which kind it is. Nothing, with the fault, where it has none.
    std::optional<Row> read(std::string_view line, LineFault& fault);

  private:
    // Of keys that are not a document's alone.
    std::optional<Row> conversation(std::string_view line, const std::vector<std::string>& keys,
                                    LineFault& fault);

    simdjson::dom::parser parser_;
    std::string kept_;
    nlohmann::ordered_json row_;
};

}  // namespace fucina
