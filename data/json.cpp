#include "data/json.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "data/json_cursor.h"

namespace fucina {
namespace {

template <class Json>
Json read_number(std::string_view literal) {
    if (const auto whole = number_in<uint64_t>(literal)) return *whole;
    if (const auto whole = number_in<int64_t>(literal)) return *whole;
    return std::strtod(std::string(literal).c_str(), nullptr);  // overflows to infinity
}

template <class Json>
Json read_value(JsonCursor& from) {
    switch (from.kind()) {
        case JsonKind::object: {
            typename Json::object_t members;
            from.object([&](std::string key) { members[std::move(key)] = read_value<Json>(from); });
            return members;
        }
        case JsonKind::list: {
            typename Json::array_t items;
            from.list([&] { items.push_back(read_value<Json>(from)); });
            return items;
        }
        case JsonKind::string:
            return from.string();
        case JsonKind::number:
            return read_number<Json>(from.number());
        case JsonKind::boolean:
            return from.boolean();
        default:
            from.null();
            return nullptr;
    }
}

template <class Json>
Json read_all(std::string_view text, const std::string& name, ExitCode code) {
    JsonCursor from(text, name, code);
    Json root = read_value<Json>(from);
    from.end();
    return root;
}

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& name, ExitCode code) {
    return read_all<nlohmann::json>(text, name, code);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& name,
                                          ExitCode code) {
    return read_all<nlohmann::ordered_json>(text, name, code);
}

nlohmann::json read_json_file(const std::filesystem::path& path, int64_t largest, ExitCode code) {
    return parse_json(read_text_file(path, largest), path.string(), code);
}

}  // namespace fucina
