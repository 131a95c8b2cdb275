#include "launch/recipe_reader.h"

#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <algorithm>

#include "kernels/error.h"
#include "launch/recipe_rules.h"
#include "launch/suggest.h"

namespace fucina {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// What a message says of the place of a value: file:line:col, or the --set option as given.
struct Place {
    std::string name;
    bool with_position = true;

    std::string at(const toml::source_region& source) const {
        if (!with_position) return name;
        return concat(name, ":", source.begin.line, ":", source.begin.column);
    }
};

// TOML's text, which is UTF-8 and may be long, as messages quote it.
std::string one_line(std::string text, size_t most) {
    std::replace_if(
        text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
    return text.size() > most ? text.substr(0, most) + "..." : text;
}

// A value as messages quote it.
std::string describe(const toml::node& node) {
    if (const auto* value = node.as_integer()) return concat("the integer ", value->get());
    if (const auto* value = node.as_floating_point()) return concat("the number ", value->get());
    if (const auto* value = node.as_boolean()) return value->get() ? "true" : "false";
    if (const auto* value = node.as_string()) {
        return concat("the string \"", one_line(value->get(), 60), "\"");
    }
    if (node.is_array()) return "a list";
    if (node.is_table()) return "a table";
    return "a date or time";
}

const FieldDescriptor& find_field(const Descriptor& type, const std::string& path,
                                  std::string_view key, const std::string& where) {
    if (const FieldDescriptor* field = type.FindFieldByName(std::string(key))) return *field;
    std::vector<std::string> names;
    for (const FieldDescriptor* field : fields_of(type)) names.push_back(field->name());
    fail(ExitCode::usage, where, ": ", path.empty() ? "a recipe" : path, " has no field \"",
         one_line(std::string(key), 60), "\"", did_you_mean(key, names));
}

class ValueReader {
  public:
    ValueReader(const Place& place, std::string origin, std::map<std::string, std::string>* origins)
        : place_(place), origin_(std::move(origin)), origins_(origins) {}

    void read_table(const toml::table& table, Message* message, const std::string& path) {
        for (const auto& [key, node] : table) {
            const FieldDescriptor& field =
                find_field(*message->GetDescriptor(), path, key.str(), place_.at(key.source()));
            read_field(node, message, field, join_path(path, field.name()));
        }
    }

    void read_field(const toml::node& node, Message* message, const FieldDescriptor& field,
                    const std::string& path) {
        if (field.is_repeated()) {
            if (!node.is_array()) wrong_type(node, field, path);
            message->GetReflection()->ClearField(message, &field);
            for (const toml::node& element : *node.as_array()) {
                read_element(element, message, field, path);
            }
            note(path);
        } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
            if (!node.is_table()) wrong_type(node, field, path);
            read_table(*node.as_table(), message->GetReflection()->MutableMessage(message, &field),
                       path);
        } else {
            read_element(node, message, field, path);
            note(path);
        }
    }

  private:
    [[noreturn]] void wrong_type(const toml::node& node, const FieldDescriptor& field,
                                 const std::string& path) const {
        fail(ExitCode::usage, place_.at(node.source()), ": ", path, " is ", describe(node),
             "; expected: ", type_name(field));
    }

    void check_range(double value, const toml::node& node, const FieldDescriptor& field,
                     const std::string& path) const {
        const std::string& range = rule_of(field).range();
        if (range.empty() || parse_interval(range).contains(value)) return;
        fail(ExitCode::usage, place_.at(node.source()), ": ", path, " is ", describe(node),
             ", outside ", range);
    }

    void check_choice(const std::string& value, const toml::node& node,
                      const FieldDescriptor& field, const std::string& path) const {
        const auto& choices = rule_of(field).choice();
        const std::vector<std::string> names(choices.begin(), choices.end());
        if (names.empty() || std::find(names.begin(), names.end(), value) != names.end()) return;
        std::string list;
        for (const std::string& name : names) list += concat(list.empty() ? "" : ", ", name);
        fail(ExitCode::usage, place_.at(node.source()), ": ", path, " is ", describe(node),
             "; legal: ", list, did_you_mean(value, names));
    }

    // One scalar, or one element of a list: set or added.
    void read_element(const toml::node& node, Message* message, const FieldDescriptor& field,
                      const std::string& path) {
        const auto& set = *message->GetReflection();
        const bool add = field.is_repeated();
        switch (field.cpp_type()) {
            case FieldDescriptor::CPPTYPE_INT64: {
                if (!node.is_integer()) wrong_type(node, field, path);
                const int64_t value = node.as_integer()->get();
                check_range(static_cast<double>(value), node, field, path);
                add ? set.AddInt64(message, &field, value) : set.SetInt64(message, &field, value);
                break;
            }
            case FieldDescriptor::CPPTYPE_DOUBLE: {
                if (!node.is_number()) wrong_type(node, field, path);
                const double value = *node.value<double>();
                check_range(value, node, field, path);
                add ? set.AddDouble(message, &field, value) : set.SetDouble(message, &field, value);
                break;
            }
            case FieldDescriptor::CPPTYPE_STRING: {
                if (!node.is_string()) wrong_type(node, field, path);
                const std::string& value = node.as_string()->get();
                if (value.empty()) {
                    fail(ExitCode::usage, place_.at(node.source()), ": ", path, " is empty");
                }
                if (value.find('\0') != value.npos) {  // most is a path, which would end there
                    fail(ExitCode::usage, place_.at(node.source()), ": ", path, " is ",
                         describe(node), ", with a zero byte in it");
                }
                check_choice(value, node, field, path);
                add ? set.AddString(message, &field, value) : set.SetString(message, &field, value);
                break;
            }
            case FieldDescriptor::CPPTYPE_BOOL: {
                if (!node.is_boolean()) wrong_type(node, field, path);
                const bool value = node.as_boolean()->get();
                check_choice(value ? "true" : "false", node, field, path);
                add ? set.AddBool(message, &field, value) : set.SetBool(message, &field, value);
                break;
            }
            default: {
                if (!node.is_table()) wrong_type(node, field, path);
                const int index = set.FieldSize(*message, &field);
                ValueReader inner(place_, origin_, nullptr);
                inner.read_table(*node.as_table(), set.AddMessage(message, &field),
                                 concat(path, "[", index, "]"));
            }
        }
    }

    void note(const std::string& path) const {
        if (origins_ != nullptr) (*origins_)[path] = origin_;
    }

    Place place_;
    std::string origin_;
    std::map<std::string, std::string>* origins_;
};

// `value = <text>` parsed, or nothing if that is no TOML.
std::optional<toml::table> parse_value(const std::string& text) {
    if (text.find('\n') != std::string::npos) return std::nullopt;  // would be more than a value
    try {
        toml::table table = toml::parse("value = " + text);
        if (table.size() == 1) return table;
    } catch (const toml::parse_error&) {
    }
    return std::nullopt;
}

// The end of the string that begins at `at`, and in `odd` where, after a backslash that continues
// a line, a character beyond ASCII stands.
size_t end_of_string(std::string_view text, size_t at, size_t& odd) {
    const char mark = text[at];
    const std::string_view three = text.substr(at, 3);
    const bool lines = three == "\"\"\"" || three == "'''";
    const std::string_view quote = three.substr(0, lines ? 3 : 1);
    at += quote.size();
    while (at < text.size() && !text.substr(at).starts_with(quote)) {
        if (!lines && text[at] == '\n') return at;
        const bool escapes = mark == '"' && text[at++] == '\\';
        if (!escapes) {
            if (mark != '"') ++at;
            continue;
        }
        const size_t after = std::min(text.find_first_not_of(" \t\r\n", at), text.size());
        if (after > at && after < text.size() && text[after] < 0) odd = std::min(odd, after);
        at = std::max(after, at + 1);
    }
    at += quote.size();
    while (lines && at < text.size() && text[at] == mark) ++at;  // """a quote at the end""""
    return at;
}

// Where a character beyond ASCII stands outside of strings and comments, or npos. TOML has none
// there, and toml++ 3.3 would take it for unreachable.
size_t odd_character(std::string_view text) {
    constexpr std::string_view kBefore = " \t\r\n=[{,.";  // a string; 5"a" is none
    size_t odd = text.npos;
    size_t at = text.starts_with("\xef\xbb\xbf") ? 3 : 0;
    while (at < text.size()) {
        if (text[at] == '#')
            at = std::min(text.find('\n', at), text.size());
        else if ((text[at] == '"' || text[at] == '\'') &&
                 (at == 0 || kBefore.find(text[at - 1]) != kBefore.npos))
            at = end_of_string(text, at, odd);
        else if (text[at++] < 0)  // char is signed
            return std::min(odd, at - 1);
    }
    return odd;
}

}  // namespace

void RecipeReader::read_text(std::string_view text, const std::string& name) {
    const Place place{name};
    if (const size_t odd = odd_character(text); odd != text.npos) {
        const std::string_view before = text.substr(0, odd);
        fail(ExitCode::usage, name, ":", 1 + std::ranges::count(before, '\n'), ":",
             odd - (before.rfind('\n') + 1) + 1,
             ": a character beyond ASCII outside of strings and comments");
    }
    toml::table table;
    try {
        table = toml::parse(text, name);
    } catch (const toml::parse_error& error) {
        std::string what(error.description());
        const size_t redefined = what.find("cannot redefine");
        if (redefined != std::string::npos) what = "duplicate key: " + what.substr(redefined);
        fail(ExitCode::usage, place.at(error.source()), ": ", one_line(what, 300));
    }
    ValueReader(place, "file", origins_).read_table(table, recipe_, "");
}

void RecipeReader::read_override(const std::string& assignment) {
    const size_t equals = assignment.find('=');
    const Place place{concat("--set ", assignment), false};
    if (equals == std::string::npos || equals == 0) {
        fail(ExitCode::usage, place.name, ": expected path=value, such as train.steps=100");
    }
    const std::string path = assignment.substr(0, equals);
    const std::string text = assignment.substr(equals + 1);
    Message* message = recipe_;
    const FieldDescriptor* field = nullptr;
    std::string walked;
    for (size_t start = 0; start <= path.size();) {
        const size_t dot = std::min(path.find('.', start), path.size());
        if (field != nullptr) {
            if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_repeated()) {
                fail(ExitCode::usage, place.name, ": ", walked, " has no fields to set");
            }
            message = message->GetReflection()->MutableMessage(message, field);
        }
        field = &find_field(*message->GetDescriptor(), walked, path.substr(start, dot - start),
                            place.name);
        walked = join_path(walked, field->name());
        start = dot + 1;
    }
    std::optional<toml::table> value = parse_value(text);
    // A string may go without quotes, even where it looks like something else.
    const bool wants_string = field->cpp_type() == FieldDescriptor::CPPTYPE_STRING;
    if (wants_string && (!value || !value->get("value")->is_string())) {
        std::string quoted = "\"";
        for (char c : text)
            quoted += (c == '"' || c == '\\') ? std::string{'\\', c} : std::string{c};
        value = parse_value(quoted + "\"");
    }
    if (!value) {
        fail(ExitCode::usage, place.name, ": the value is no TOML; expected: ", type_name(*field));
    }
    ValueReader(place, "--set", origins_).read_field(*value->get("value"), message, *field, path);
}

void RecipeReader::read_default(Message* message, const FieldDescriptor& field,
                                const std::string& path) {
    const std::optional<toml::table> value = parse_value(rule_of(field).value());
    FUCINA_CHECK(value, "the default of ", path, " is no TOML: ", rule_of(field).value());
    ValueReader(Place{"default of " + path, false}, "default", origins_)
        .read_field(*value->get("value"), message, field, path);
}

}  // namespace fucina
