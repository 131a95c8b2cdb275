// A JSON value that knows its place in the file, so that every complaint names it:
// `model.merges[17]: found ...`.
#pragma once
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/error.h"

namespace fucina {

// Text of unknown origin, cut and escaped so that it fits on one line.
std::string quoted(std::string_view text);

class JsonValue {
  public:
    // `value` must outlive this, and what string() gives.
    JsonValue(const nlohmann::json& value, std::string where)
        : value_(&value), where_(std::move(where)) {}

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
    bool is_string() const;
    bool is_zero() const;
    size_t size() const;  // of a list or an object
    void for_each(const std::function<void(const JsonValue&)>& visit) const;  // of a list
    // Of an object whose values are integers from 0 to `most`.
    void for_each_id(int64_t most,
                     const std::function<void(const std::string&, int32_t)>& visit) const;

  private:
    std::string child(std::string_view key) const;

    const nlohmann::json* value_;
    std::string where_;
};

}  // namespace fucina
