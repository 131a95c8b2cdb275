// How a model wants its conversations: its chat template, and the names of its special tokens,
// which templates write.
#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "data/template/chat_template.h"
#include "kernels/error.h"

namespace fucina {

// A template that does not parse: no row's fault.
class BrokenTemplate : public Error {
  public:
    explicit BrokenTemplate(const std::string& message) : Error(ExitCode::data, message) {}
};

class ChatFormat {
  public:
    // The template is in `chosen` where that is not empty, else in chat_template.jinja or the
    // `chat_template` of tokenizer_config.json (where that has several, the one called default)
    // beside `tokenizer`, a tokenizer.json. Nothing where there is none. Names of tokens are those
    // of tokenizer_config.json and special_tokens_map.json. Error(data), with its place, where
    // a file is broken; BrokenTemplate where the one in `chosen` is. Another is parsed when it is
    // first rendered: there are models whose template this program does not know.
    static std::optional<ChatFormat> find(const std::filesystem::path& tokenizer,
                                          const std::filesystem::path& chosen);

    // The text of a conversation: `row` has `messages`, and may have `tools` and
    // `chat_template_kwargs`, an object of other variables; its other keys are not looked at. With
    // a prompt, what an answer begins with stands at its end. Error(data), or BrokenTemplate. Any
    // thread may call at any time.
    std::string render(const nlohmann::ordered_json& row, bool with_prompt) const;

    const std::string& source() const;  // the template
    const std::string& from() const;    // where it was found, for messages
    std::string hash() const;           // of all that decides what is rendered, but the row

  private:
    struct State;
    explicit ChatFormat(std::shared_ptr<State> state) : state_(std::move(state)) {}
    const ChatTemplate& parsed() const;

    std::shared_ptr<State> state_;
};

}  // namespace fucina
