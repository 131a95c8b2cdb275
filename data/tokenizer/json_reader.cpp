#include "data/tokenizer/json_reader.h"

#include <nlohmann/json.hpp>

#include "data/file.h"

namespace fucina {

std::string quoted(std::string_view text) {
    return "\"" + printable(text) + "\"";
}

std::string JsonValue::child(std::string_view key) const {
    return where_.empty() ? std::string(key) : where_ + "." + std::string(key);
}

std::optional<JsonValue> JsonValue::find(std::string_view key) const {
    if (!value_->is_object()) refuse("expected an object");
    const auto found = value_->find(std::string(key));
    if (found == value_->end() || found->is_null()) return std::nullopt;
    return JsonValue(*found, child(key));
}

JsonValue JsonValue::at(std::string_view key) const {
    const std::optional<JsonValue> value = find(key);
    if (!value) refuse("missing ", quoted(key));
    return *value;
}

std::string_view JsonValue::string() const {
    if (!value_->is_string()) refuse("expected a string");
    return value_->get_ref<const std::string&>();
}

bool JsonValue::boolean() const {
    if (!value_->is_boolean()) refuse("expected true or false");
    return value_->get<bool>();
}

bool JsonValue::boolean_or(std::string_view key, bool otherwise) const {
    const std::optional<JsonValue> value = find(key);
    return value ? value->boolean() : otherwise;
}

std::string_view JsonValue::string_or(std::string_view key, std::string_view otherwise) const {
    const std::optional<JsonValue> value = find(key);
    return value ? value->string() : otherwise;
}

bool JsonValue::is_string() const {
    return value_->is_string();
}

bool JsonValue::is_zero() const {
    return value_->is_number() && *value_ == 0;
}

size_t JsonValue::size() const {
    return value_->size();
}

void JsonValue::for_each(const std::function<void(const JsonValue&)>& visit) const {
    if (!value_->is_array()) refuse("expected a list");
    size_t index = 0;
    for (const nlohmann::json& item : *value_)
        visit({item, where_ + "[" + std::to_string(index++) + "]"});
}

void JsonValue::for_each_id(int64_t most,
                            const std::function<void(const std::string&, int32_t)>& visit) const {
    if (!value_->is_object()) refuse("expected an object");
    for (const auto& [key, id] : value_->items()) {
        if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(most))
            refuse("the id of ", quoted(key), " is not an integer from 0 to ", most);
        visit(key, id.get<int32_t>());
    }
}

}  // namespace fucina
