// What configs/options.proto says about a field, in the forms that reading and printing need.
#pragma once
#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "configs/options.pb.h"

namespace fucina {

// An interval such as "[1, inf)".
struct Interval {
    double low = 0, high = 0;
    bool low_open = false, high_open = false;
    bool contains(double value) const;  // false for NaN
};

const FieldRule& rule_of(const google::protobuf::FieldDescriptor& field);
Interval parse_interval(const std::string& text);

// "integer", "floating-point number", "string", "true or false", "table", "list of ...".
std::string type_name(const google::protobuf::FieldDescriptor& field);

// "train.steps" of "train" and "steps"; the name alone under the empty path.
std::string join_path(const std::string& path, const std::string& name);

// Whether a singular field is set, or a repeated one has elements.
bool is_present(const google::protobuf::Message& message,
                const google::protobuf::FieldDescriptor& field);

// The fields in the order of their numbers.
std::vector<const google::protobuf::FieldDescriptor*> fields_of(
    const google::protobuf::Descriptor& type);

}  // namespace fucina
