// simdjson reads; for the place of a syntax error the text is scanned once more by nlohmann's
// parser, without building.
#include "data/tokenizer/json_reader.h"

#include <nlohmann/json.hpp>

#include <algorithm>

#include "data/file.h"

namespace fucina {
namespace {

constexpr size_t kMaxDepth = 64;

struct ErrorPlace : nlohmann::json_sax<nlohmann::json> {
    size_t position = 0;

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(size_t) override { return true; }
    bool key(string_t&) override { return true; }
    bool end_object() override { return true; }
    bool start_array(size_t) override { return true; }
    bool end_array() override { return true; }
    bool parse_error(size_t at, const std::string&, const nlohmann::json::exception&) override {
        position = at;
        return false;
    }
};

[[noreturn]] void refuse_syntax(const std::string& text) {
    ErrorPlace place;
    nlohmann::json::sax_parse(text, &place);
    const size_t at = std::min(place.position, text.size());
    const auto end = text.begin() + static_cast<std::ptrdiff_t>(at);
    const auto line = std::count(text.begin(), end, '\n') + 1;
    const size_t line_start = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
    const size_t column = line_start == std::string::npos ? at : at - line_start - 1;
    fail(ExitCode::data, at == text.size() ? "JSON that ends too early" : "malformed JSON",
         ", at line ", line, ", column ", std::max<size_t>(column, 1));
}

}  // namespace

std::string quoted(std::string_view text) {
    return "\"" + printable(text) + "\"";
}

std::string JsonValue::child(std::string_view key) const {
    return where_.empty() ? std::string(key) : where_ + "." + std::string(key);
}

simdjson::dom::object JsonValue::object() const {
    simdjson::dom::object object;
    if (element_.get(object) != simdjson::SUCCESS) refuse("expected an object");
    return object;
}

std::optional<JsonValue> JsonValue::find(std::string_view key) const {
    simdjson::dom::element value;
    if (object().at_key(key).get(value) != simdjson::SUCCESS || value.is_null())
        return std::nullopt;
    return JsonValue(value, child(key));
}

JsonValue JsonValue::at(std::string_view key) const {
    const std::optional<JsonValue> value = find(key);
    if (!value) refuse("missing ", quoted(key));
    return *value;
}

std::string_view JsonValue::string() const {
    std::string_view value;
    if (element_.get(value) != simdjson::SUCCESS) refuse("expected a string");
    return value;
}

bool JsonValue::boolean() const {
    bool value = false;
    if (element_.get(value) != simdjson::SUCCESS) refuse("expected true or false");
    return value;
}

bool JsonValue::boolean_or(std::string_view key, bool otherwise) const {
    const std::optional<JsonValue> value = find(key);
    return value ? value->boolean() : otherwise;
}

std::string_view JsonValue::string_or(std::string_view key, std::string_view otherwise) const {
    const std::optional<JsonValue> value = find(key);
    return value ? value->string() : otherwise;
}

int64_t JsonValue::integer(int64_t low, int64_t high) const {
    int64_t value = 0;
    if (element_.get(value) != simdjson::SUCCESS || value < low || value > high) {
        refuse("expected an integer from ", low, " to ", high);
    }
    return value;
}

void JsonValue::for_each(const std::function<void(const JsonValue&)>& visit) const {
    simdjson::dom::array array;
    if (element_.get(array) != simdjson::SUCCESS) refuse("expected a list");
    size_t index = 0;
    for (const simdjson::dom::element item : array)
        visit({item, concat(where_, "[", index++, "]")});
}

simdjson::dom::element parse_json(simdjson::dom::parser& parser, const std::string& text) {
    simdjson::dom::element root;
    if (parser.allocate(text.size() + 1, kMaxDepth) != simdjson::SUCCESS)
        fail(ExitCode::data, "too large to parse");
    const simdjson::error_code error = parser.parse(text).get(root);
    if (error == simdjson::SUCCESS) return root;
    if (error == simdjson::DEPTH_ERROR)
        fail(ExitCode::data, "JSON nested deeper than ", kMaxDepth, " levels");
    refuse_syntax(text);
}

}  // namespace fucina
