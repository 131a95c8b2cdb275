// Values of chat templates, as Jinja2 in Python has them. Private to data/template.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/error.h"

namespace fucina {

// What went wrong, and at which byte of the source, once that is known.
struct TemplateProblem {
    std::string what;
    std::optional<size_t> place = {};
};

template <class... Parts>
[[noreturn]] void give_up(const Parts&... what) {
    throw TemplateProblem{concat(what...)};
}

struct TemplateList;
struct TemplateDict;
struct TemplateLoop;
struct TemplateCallable;
struct TemplateRun;

struct Undefined {
    std::string name;  // of what was looked for
};
struct None {};
struct TemplateText {
    std::string text;      // UTF-8
    bool is_safe = false;  // by the filter `safe`; Jinja2 escapes what is joined to it
};

using TemplateValue =
    std::variant<Undefined, None, bool, int64_t, double, TemplateText,
                 std::shared_ptr<TemplateList>, std::shared_ptr<TemplateDict>,
                 std::shared_ptr<TemplateLoop>, std::shared_ptr<TemplateCallable>>;
using TemplateValues = std::vector<TemplateValue>;

// Values by name, in the order of insertion.
struct TemplateNames {
    std::vector<std::pair<std::string, TemplateValue>> items;

    const TemplateValue* find(std::string_view name) const;  // null: there is none
    void put(const std::string& name, TemplateValue value);
};
struct TemplateArguments {
    TemplateValues positional;
    TemplateNames named;
};

// Lists and dicts hold plain data alone, at most kTemplateDepth levels of it, so that none holds
// itself. A generator can be gone through once; a view (of a dict, of a range) is no list in
// Python either.
inline constexpr int kTemplateDepth = 100;
struct TemplateList {
    enum Kind : uint8_t { list, tuple, generator, view };
    TemplateValues items;
    Kind kind = list;
    bool is_used = false;  // a generator
    int depth = 1;
};
struct TemplateDict : TemplateNames {
    bool is_namespace = false;
    int depth = 1;

    void set(const std::string& key, TemplateValue value);
};
struct TemplateLoop {
    TemplateValues items;
    int64_t index0 = 0, depth = 1;
};
struct TemplateCallable {
    std::string kind;  // "function", "method" or "macro"
    std::function<TemplateValue(const TemplateArguments&, TemplateRun&)> call;
};

TemplateValue make_text(std::string text);
TemplateValue make_list(TemplateValues items, TemplateList::Kind kind = TemplateList::list);
TemplateValue from_json(const nlohmann::ordered_json& json);

const std::string* text_in(const TemplateValue& value);  // null if it is no string
const TemplateList* list_in(const TemplateValue& value);
const TemplateDict* dict_in(const TemplateValue& value);  // namespaces too
bool is_mapping(const TemplateValue& value);
std::optional<int64_t> whole_in(const TemplateValue& value);  // of an integer or a boolean
std::optional<double> number_in(const TemplateValue& value);  // of a float too
std::string kind_of(const TemplateValue& value);              // for messages
// Fails, saying that `what` must be one, where it is no string.
const std::string& want_text(const TemplateValue& value, std::string_view what);
template <class Kind>
bool is(const TemplateValue& value) {
    return std::holds_alternative<Kind>(value);
}

bool is_true(const TemplateValue& value);
bool are_equal(const TemplateValue& a, const TemplateValue& b);
bool contains(const TemplateValue& whole, const TemplateValue& part);
// a sign b, of == != < <= > >= in and `not in`; order is that of numbers or of strings.
bool holds(const TemplateValue& a, const std::string& sign, const TemplateValue& b);
// a sign b, of + - * / // % ~.
TemplateValue calculate(const std::string& sign, const TemplateValue& a, const TemplateValue& b);
// What `for` goes through; a generator is used up.
TemplateValues items_of(const TemplateValue& value);
int64_t length_of(const TemplateValue& value);

std::string to_text(const TemplateValue& value);  // Python's str()
struct JsonStyle {
    int64_t indent = -1;  // none
    bool ascii = false, sort_keys = false;
    std::string comma = ", ", colon = ": ";
};
std::string to_json(const TemplateValue& value, const JsonStyle& style);  // Python's json.dumps

// Strings by code points.
std::vector<std::string> characters(std::string_view text);
// Python's isspace() of the character that begins at `at`; its bytes through `length`.
bool is_space_at(std::string_view text, size_t at, size_t& length);
// Without what is in `set` at the chosen sides; without a set, without white space.
std::string strip(std::string_view text, const std::string* set, bool left, bool right);

}  // namespace fucina
