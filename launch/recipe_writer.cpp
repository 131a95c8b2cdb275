// Recipes out again: as TOML, as the screen's listing, as config.json's model section, as tables.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "launch/recipe.h"
#include "launch/recipe_rules.h"

namespace fucina {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

// Shortest digits that read back to the same bits, and always recognisable as a float.
std::string toml_float(double value) {
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    std::string text = fmt::format("{}", value);
    if (text.find_first_of(".en") == std::string::npos) text += ".0";
    return text;
}

std::string toml_string(const std::string& value) {
    std::string text = "\"";
    for (const char c : value) {
        if (c == '"' || c == '\\') {
            text += '\\';
            text += c;
        } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            text += fmt::format("\\u{:04X}", static_cast<int>(c));
        } else {
            text += c;
        }
    }
    return text + "\"";
}

Json json_of(const Message& message);

// The value of a singular field, or element `index` of a list.
Json json_of(const Message& message, const FieldDescriptor& field, int index) {
    const auto& get = *message.GetReflection();
    const bool in_list = field.is_repeated();
    switch (field.cpp_type()) {
        case FieldDescriptor::CPPTYPE_INT64:
            return in_list ? get.GetRepeatedInt64(message, &field, index)
                           : get.GetInt64(message, &field);
        case FieldDescriptor::CPPTYPE_DOUBLE:
            return in_list ? get.GetRepeatedDouble(message, &field, index)
                           : get.GetDouble(message, &field);
        case FieldDescriptor::CPPTYPE_BOOL:
            return in_list ? get.GetRepeatedBool(message, &field, index)
                           : get.GetBool(message, &field);
        case FieldDescriptor::CPPTYPE_STRING:
            return in_list ? get.GetRepeatedString(message, &field, index)
                           : get.GetString(message, &field);
        default:
            return json_of(in_list ? get.GetRepeatedMessage(message, &field, index)
                                   : get.GetMessage(message, &field));
    }
}

// What is set, in the schema's order.
Json json_of(const Message& message) {
    Json json = Json::object();
    for (const FieldDescriptor* field : fields_of(*message.GetDescriptor())) {
        if (!is_present(message, *field)) continue;
        Json& value = json[field->name()];
        if (!field->is_repeated()) value = json_of(message, *field, 0);
        for (int i = 0;
             field->is_repeated() && i < message.GetReflection()->FieldSize(message, field); ++i)
            value.push_back(json_of(message, *field, i));
    }
    return json;
}

// In one line; a table as { path = "a.txt", weight = 1.0 }.
std::string toml_value(const Json& value) {
    if (value.is_number_float()) return toml_float(value.get<double>());
    if (value.is_string()) return toml_string(value.get<std::string>());
    if (!value.is_structured()) return value.dump();
    std::string text;
    for (const auto& [key, item] : value.items())
        text += concat(text.empty() ? "" : ", ", value.is_object() ? key + " = " : "",
                       toml_value(item));
    return value.is_object() ? "{ " + text + " }" : "[" + text + "]";
}

// Calls visit(path, key, value) for every value that is set: a section's own values first, then
// the sections in it, since TOML cannot return to a table.
template <class Visit>
void walk(const Json& section, const std::string& path, const Visit& visit) {
    for (const auto& [key, value] : section.items())
        if (!value.is_object()) visit(path, key, value);
    for (const auto& [key, value] : section.items())
        if (value.is_object()) walk(value, join_path(path, key), visit);
}

void table_of(const Descriptor& type, const std::string& path, std::string* out) {
    *out +=
        concat("\n| `", path, "` | type | default | legal | meaning |\n|---|---|---|---|---|\n");
    std::string inner;
    for (const FieldDescriptor* field : fields_of(type)) {
        const bool table = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
        if (table) table_of(*field->message_type(), join_path(path, field->name()), &inner);
        if (table && !field->is_repeated()) continue;
        const FieldRule& rule = rule_of(*field);
        const std::string quote = field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL ? "" : "\"";
        std::string legal = rule.range();
        if (!rule.equal_to().empty()) legal = concat("that of `", rule.equal_to(), "`");
        for (const std::string& choice : rule.choice()) {
            legal += concat(legal.empty() ? "" : ", ", quote, choice, quote);
        }
        std::string value = rule.value();
        for (char& c : value) c = c == '\'' ? '"' : c;
        if (rule.required()) value = "required";
        if (!rule.required_without().empty()) value = "required without `from`";
        *out += concat("| `", field->name(), "` | ", type_name(*field), " | ", value, " | ", legal,
                       " | ", rule.doc(), rule.unit().empty() ? "" : " (", rule.unit(),
                       rule.unit().empty() ? "" : ")", " |\n");
    }
    *out += inner;
}

}  // namespace

std::string recipe_toml(const Recipe& recipe) {
    std::string text;
    std::string section;
    walk(json_of(recipe), "",
         [&](const std::string& path, const std::string& key, const Json& value) {
             if (path != section) text += concat(text.empty() ? "" : "\n", "[", path, "]\n");
             section = path;
             text += concat(key, " = ", toml_value(value), "\n");
         });
    return text;
}

std::vector<std::pair<std::string, std::string>> recipe_values(const Recipe& recipe) {
    std::vector<std::pair<std::string, std::string>> values;
    walk(json_of(recipe), "",
         [&](const std::string& path, const std::string& key, const Json& value) {
             values.emplace_back(join_path(path, key), toml_value(value));
         });
    return values;
}

std::string recipe_listing(const ResolvedRecipe& resolved) {
    std::string text;
    for (const auto& [name, value] : recipe_values(resolved.recipe)) {
        const auto origin = resolved.origins.find(name);
        text += fmt::format("  {:<34} {:<26} {}\n", name, value,
                            origin == resolved.origins.end() ? "default" : origin->second);
    }
    return text;
}

nlohmann::json model_json(const Recipe& recipe) {
    FUCINA_CHECK(!recipe.model().has_from(), "model_json of a recipe with model.from");
    nlohmann::json json = json_of(recipe.model());
    if (recipe.model().q_lora_rank() == 0) json["q_lora_rank"] = nullptr;
    // Not the default of config.json: the tokenizer's, if there is one.
    if (!recipe.model().has_eos_token_id()) json["eos_token_id"] = nullptr;
    return json;
}

std::string recipe_table() {
    std::string text;
    for (const FieldDescriptor* field : fields_of(*Recipe::descriptor())) {
        table_of(*field->message_type(), field->name(), &text);
    }
    return text;
}

}  // namespace fucina
