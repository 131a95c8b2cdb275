// Values of chat templates, as Jinja2 in Python has them. Private to data/template.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fucina {

// What went wrong, without its place, which the interpreter adds.
struct TemplateProblem {
    std::string what;
};

struct TemplateNode;
class TemplateScope;
struct TemplateList;
struct TemplateDict;
struct TemplateLoop;
struct TemplateMacro;
struct TemplateMethod;

struct Undefined {
    std::string name;  // of what was looked for
};
struct None {};
struct TemplateText {
    std::string text;      // UTF-8
    bool is_safe = false;  // by the filter `safe`; Jinja2 escapes what is joined to it
};
struct TemplateFunction {
    std::string name;  // of a global one
};

using TemplateValue = std::variant<Undefined, None, bool, int64_t, double, TemplateText,
                                   TemplateFunction, std::shared_ptr<TemplateList>,
                                   std::shared_ptr<TemplateDict>, std::shared_ptr<TemplateLoop>,
                                   std::shared_ptr<TemplateMacro>, std::shared_ptr<TemplateMethod>>;
using TemplateValues = std::vector<TemplateValue>;

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
struct TemplateDict {
    std::vector<std::pair<std::string, TemplateValue>> items;  // in the order of insertion
    bool is_namespace = false;
    int depth = 1;

    const TemplateValue* find(std::string_view key) const;
    void set(const std::string& key, TemplateValue value);
};
struct TemplateLoop {
    TemplateValues items;
    int64_t index0 = 0, depth = 1;
};
struct TemplateMacro {
    const TemplateNode* node = nullptr;
    std::weak_ptr<TemplateScope> scope;  // where it was defined
};
struct TemplateMethod {
    TemplateValue self;
    std::string name;
};

TemplateValue make_text(std::string text);
TemplateValue make_list(TemplateValues items, TemplateList::Kind kind = TemplateList::list);
TemplateValue from_json(const nlohmann::ordered_json& json);

const std::string* text_in(const TemplateValue& value);  // null if it is no string
const TemplateList* list_in(const TemplateValue& value);
const TemplateDict* dict_in(const TemplateValue& value);  // namespaces too
bool is_mapping(const TemplateValue& value);
std::string kind_of(const TemplateValue& value);  // for messages

bool is_true(const TemplateValue& value);
bool are_equal(const TemplateValue& a, const TemplateValue& b);
// Negative, 0 or positive; numbers with numbers and strings with strings.
int compare(const TemplateValue& a, const TemplateValue& b);
bool contains(const TemplateValue& whole, const TemplateValue& part);
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
