// JSON as data and configuration have it: a line of JSON lines, and any value.
#include <simdjson.h>

#include <nlohmann/json.hpp>

#include "data/conversation.h"
#include "data/ids_file.h"
#include "data/json.h"
#include "data/json_line_reader.h"
#include "data/text_check.h"
#include "tests/fuzz/fuzz.h"

namespace fucina {
namespace {

// NaN and infinities have no JSON of their own.
bool finite(const nlohmann::json& value) {
    if (value.is_number_float()) return std::isfinite(value.get<double>());
    return !value.is_structured() || std::ranges::all_of(value, finite);
}

void check_line(std::string_view line, const nlohmann::json* value) {
    static LineReaderJson reader;
    const std::string padded = std::string(line) + std::string(simdjson::SIMDJSON_PADDING, ' ');
    LineFault fault;
    const std::optional<Row> row = reader.read({padded.data(), line.size()}, fault);
    HOLDS(row || fault.detail.size() < 1000);
    if (!row) return;
    HOLDS(value && value->is_object());
    if (row->kind != RowKind::text) {
        HOLDS(row->json && (!finite(*value) ||
                            parse_json(row->json->dump(), "again", ExitCode::data) == *value));
        fuzz::accepts([&] { check_conversation(*row); });
        return;
    }
    HOLDS(!row->text.empty() && simdjson::validate_utf8(row->text.data(), row->text.size()));
    HOLDS(value->at("text") == row->text);
}

}  // namespace
}  // namespace fucina

FUZZ(input) {
    using namespace fucina;
    nlohmann::json value;
    const bool accepted = fuzz::accepts([&] { value = parse_json(input, "line", ExitCode::data); });
    if (accepted && finite(value))
        HOLDS(parse_json(value.dump(), "again", ExitCode::data) == value);
    if (input.find('\n') == input.npos) check_line(input, accepted ? &value : nullptr);
    std::vector<std::vector<int32_t>> lists;
    if (!fuzz::accepts([&] { lists = read_ids(fuzz::file_of(input, "ids.json"), 100); })) return;
    for (const auto& list : lists)
        for (const int32_t id : list) HOLDS(id >= 0 && id < 100);
    HOLDS(value == nlohmann::json(lists));
}
