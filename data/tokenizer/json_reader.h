// A JSON value that knows its place in the file, so that every complaint names it:
// `model.merges[17]: found ...`.
#pragma once
#include <simdjson.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/error.h"

namespace fucina {

// Text of unknown origin, cut and escaped so that it fits on one line.
std::string quoted(std::string_view text);

class JsonValue {
  public:
    JsonValue(simdjson::dom::element element, std::string where)
        : element_(element), where_(std::move(where)) {}

    // Reports "what, where".
    template <class... Parts>
    [[noreturn]] void refuse(const Parts&... what) const {
        fail(ExitCode::data, concat(what...), ", at ", where_.empty() ? "the top" : where_);
    }

    std::optional<JsonValue> find(std::string_view key) const;  // absent and null are the same
    JsonValue at(std::string_view key) const;
    std::string_view string() const;
    bool boolean() const;
    bool boolean_or(std::string_view key, bool otherwise) const;
    std::string_view string_or(std::string_view key, std::string_view otherwise) const;
    int64_t integer(int64_t low, int64_t high) const;
    bool is_string() const { return element_.is_string(); }
    void for_each(const std::function<void(const JsonValue&)>& visit) const;  // of an array

    const simdjson::dom::element& element() const { return element_; }
    const std::string& where() const { return where_; }

  private:
    std::string child(std::string_view key) const;
    simdjson::dom::object object() const;

    simdjson::dom::element element_;
    std::string where_;
};

// Parses with bounded depth; a syntax error is reported with line and column.
simdjson::dom::element parse_json(simdjson::dom::parser& parser, const std::string& text);

}  // namespace fucina
