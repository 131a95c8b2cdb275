// Chat templates: how a model wants a conversation as one text. They are Jinja2 programs; this
// renders the part of that language that they use, as transformers does, and refuses the rest by
// name. They come with models from anywhere: a template can take only so many steps, so much
// memory and so many levels, and reaches nothing but what it is given, and the clock.
#pragma once
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace fucina {

template <class Result>
class TemplateStep;
enum class TemplateFlow : uint8_t;

class ChatTemplate {
  public:
    // `name` stands in messages. Error(data), "name:line:column: what", where the template breaks
    // the grammar or uses what is not supported.
    static ChatTemplate parse(std::string_view source, std::string name);

    // With the variables of an object: messages, add_generation_prompt, bos_token and the like.
    // Error(data) alike where the template fails, or says so by raise_exception. Any thread may
    // call at any time.
    std::string render(const nlohmann::ordered_json& variables) const;

    const std::string& name() const { return name_; }

  private:
    template <class Work>
    auto attempt(const Work& work) const;  // its result; a problem becomes an Error with its place

    std::shared_ptr<const TemplateStep<TemplateFlow>> root_;
    std::string name_, source_;
};

}  // namespace fucina
