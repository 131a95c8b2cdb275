#include "launch/recipe_rules.h"

#include <cstdlib>

#include "kernels/error.h"

namespace fucina {

using google::protobuf::FieldDescriptor;

bool Interval::contains(double value) const {
    const bool above = low_open ? value > low : value >= low;
    const bool below = high_open ? value < high : value <= high;
    return above && below;
}

const FieldRule& rule_of(const FieldDescriptor& field) {
    return field.options().GetExtension(rule);
}

Interval parse_interval(const std::string& text) {
    FUCINA_CHECK(text.size() >= 5, "interval \"", text, "\" is not like \"[1, inf)\"");
    Interval interval;
    char* end = nullptr;
    interval.low = std::strtod(text.c_str() + 1, &end);
    FUCINA_CHECK(*end == ',', "interval \"", text, "\" has no comma");
    interval.high = std::strtod(end + 1, nullptr);
    interval.low_open = text.front() == '(';
    interval.high_open = text.back() == ')';
    return interval;
}

std::string type_name(const FieldDescriptor& field) {
    std::string name;
    switch (field.cpp_type()) {
        case FieldDescriptor::CPPTYPE_INT64:
            name = "integer";
            break;
        case FieldDescriptor::CPPTYPE_DOUBLE:
            name = "number";
            break;
        case FieldDescriptor::CPPTYPE_STRING:
            name = "string";
            break;
        case FieldDescriptor::CPPTYPE_BOOL:
            name = "true or false";
            break;
        case FieldDescriptor::CPPTYPE_MESSAGE:
            name = "table";
            break;
        default:
            FUCINA_CHECK(false, "recipe field ", field.full_name(), " has no TOML type");
    }
    return field.is_repeated() ? "list of " + name + "s" : name;
}

std::string join_path(const std::string& path, const std::string& name) {
    return path.empty() ? name : concat(path, ".", name);
}

bool is_present(const google::protobuf::Message& message, const FieldDescriptor& field) {
    const auto& reflection = *message.GetReflection();
    return field.is_repeated() ? reflection.FieldSize(message, &field) > 0
                               : reflection.HasField(message, &field);
}

std::vector<const FieldDescriptor*> fields_of(const google::protobuf::Descriptor& type) {
    std::vector<const FieldDescriptor*> fields;
    for (int i = 0; i < type.field_count(); ++i) fields.push_back(type.field(i));
    return fields;
}

}  // namespace fucina
