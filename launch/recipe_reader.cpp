#include "launch/recipe_reader.h"

#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

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

// A value as messages quote it, cut if it is long.
std::string describe(const toml::node& node) {
    if (const auto* value = node.as_integer()) return concat("the integer ", value->get());
    if (const auto* value = node.as_floating_point()) return concat("the number ", value->get());
    if (const auto* value = node.as_boolean()) return value->get() ? "true" : "false";
    if (const auto* value = node.as_string()) {
        constexpr size_t kLongest = 60;
        const std::string& text = value->get();
        return concat("the string \"", text.substr(0, kLongest),
                      text.size() > kLongest ? "..." : "", "\"");
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
         std::string(key), "\"", did_you_mean(key, names));
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

}  // namespace

void RecipeReader::read_text(std::string_view text, const std::string& name) {
    const Place place{name};
    toml::table table;
    try {
        table = toml::parse(text, name);
    } catch (const toml::parse_error& error) {
        std::string what(error.description());
        const size_t redefined = what.find("cannot redefine");
        if (redefined != std::string::npos) what = "duplicate key: " + what.substr(redefined);
        fail(ExitCode::usage, place.at(error.source()), ": ", what);
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
