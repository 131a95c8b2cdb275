// TOML into a protobuf message by reflection: names, types, ranges and choices are checked here.
#pragma once
#include <google/protobuf/message.h>

#include <map>
#include <string>
#include <string_view>

namespace fucina {

class RecipeReader {
  public:
    // Every value read is noted in *origins under its dotted path.
    RecipeReader(google::protobuf::Message* recipe, std::map<std::string, std::string>* origins)
        : recipe_(recipe), origins_(origins) {}

    // A whole TOML text, called `name` in messages.
    void read_text(std::string_view text, const std::string& name);
    // One `path=value` of a --set option.
    void read_override(const std::string& assignment);
    // The value text of a FieldRule, for a field that is still unset.
    void read_default(google::protobuf::Message* message,
                      const google::protobuf::FieldDescriptor& field, const std::string& path);

  private:
    google::protobuf::Message* recipe_;
    std::map<std::string, std::string>* origins_;
};

}  // namespace fucina
