#include "data/chat_format.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <mutex>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "data/json.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kLargestFile = int64_t{64} << 20;

std::optional<json> read_beside(const fs::path& tokenizer, const char* name) {
    const fs::path path = fs::path(tokenizer).replace_filename(name);
    std::error_code ignored;
    if (tokenizer.empty() || !fs::is_regular_file(path, ignored)) return std::nullopt;
    json root = read_json_file(path, kLargestFile, ExitCode::data);
    if (!root.is_object()) fail(ExitCode::data, path.string(), ": is no JSON object");
    return root;
}

// "bos_token" and the like: a string, or {"content": string}. Those that are there already stay.
void add_tokens(const json& config, nlohmann::ordered_json& tokens) {
    for (const auto& [key, value] : config.items()) {
        const json& name =
            value.is_object() && value.contains("content") ? value["content"] : value;
        if (key == "extra_special_tokens" && value.is_object()) add_tokens(value, tokens);
        if (key.ends_with("_token") && name.is_string() && !tokens.contains(key))
            tokens[key] = name;
    }
}

// The template of tokenizer_config.json: a string, or a list of {"name", "template"}, of which
// the one called default.
std::optional<std::string> template_in(const json& config) {
    if (!config.contains("chat_template") || config["chat_template"].is_null()) return std::nullopt;
    const json& found = config["chat_template"];
    if (found.is_string()) return found.get<std::string>();
    if (found.is_array())
        for (const json& one : found)
            if (one.is_object() && one.value("name", json()) == "default" &&
                one.contains("template") && one["template"].is_string())
                return one["template"].get<std::string>();
    return std::nullopt;
}

// A message's reasoning has several names; templates look for the first, or for thinking.
void name_reasoning(nlohmann::ordered_json& message) {
    for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
        if (!message.is_object() || !message.contains(name) || message[name].is_null()) continue;
        const nlohmann::ordered_json reasoning = message[name];
        message["reasoning_content"] = reasoning;
        if (!message.contains("thinking")) message["thinking"] = reasoning;
        return;
    }
}

}  // namespace

struct ChatFormat::State {
    std::string source, from;
    nlohmann::ordered_json tokens = nlohmann::ordered_json::object();
    std::once_flag once;
    std::optional<ChatTemplate> parsed;
};

std::optional<ChatFormat> ChatFormat::find(const fs::path& tokenizer, const fs::path& chosen) {
    auto state = std::make_shared<State>();
    const auto config = read_beside(tokenizer, "tokenizer_config.json");
    const fs::path beside = fs::path(tokenizer).replace_filename("chat_template.jinja");
    const std::string config_path =
        fs::path(tokenizer).replace_filename("tokenizer_config.json").string();
    std::error_code ignored;
    std::optional<std::string> source;
    state->from = chosen.empty() ? beside.string() : chosen.string();
    if (!chosen.empty() || (!tokenizer.empty() && fs::is_regular_file(beside, ignored))) {
        source = read_text_file(state->from, kLargestFile);
    } else if (config) {
        source = template_in(*config);
        state->from = concat("chat_template of ", config_path);
    }
    if (!source) return std::nullopt;
    state->source = std::move(*source);
    if (config) add_tokens(*config, state->tokens);
    if (const auto map = read_beside(tokenizer, "special_tokens_map.json"))
        add_tokens(*map, state->tokens);
    ChatFormat format(std::move(state));
    if (!chosen.empty()) format.parsed();
    return format;
}

const ChatTemplate& ChatFormat::parsed() const {
    std::call_once(state_->once, [&] {
        try {
            state_->parsed = ChatTemplate::parse(state_->source, state_->from);
        } catch (const Error& error) {
            throw BrokenTemplate(error.what());
        }
    });
    return *state_->parsed;
}

std::string ChatFormat::render(const nlohmann::ordered_json& row, bool with_prompt) const {
    const ChatTemplate& parsed = this->parsed();
    nlohmann::ordered_json variables = state_->tokens;
    variables["tools"] = nullptr;
    variables["documents"] = nullptr;
    if (const auto more = row.find("chat_template_kwargs"); more != row.end() && more->is_object())
        variables.update(*more);
    for (const char* name : {"messages", "tools"})
        if (row.contains(name)) variables[name] = row[name];
    if (variables["messages"].is_array())
        for (auto& message : variables["messages"]) name_reasoning(message);
    variables["add_generation_prompt"] = with_prompt;
    return parsed.render(variables);
}

const std::string& ChatFormat::source() const {
    return state_->source;
}

const std::string& ChatFormat::from() const {
    return state_->from;
}

std::string ChatFormat::hash() const {
    const std::string all = state_->source + '\0' + state_->tokens.dump();
    return fmt::format("{:016x}", XXH3_64bits(all.data(), all.size()));
}

}  // namespace fucina
