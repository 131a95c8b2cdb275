#include "data/conversation.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "kernels/error.h"

namespace fucina {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool"};

// `path = value`, cut short, for a complaint.
std::string found(const std::string& path, const Json& value) {
    return concat(path, " = ",
                  printable(value.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

template <class... Parts>
[[noreturn]] void refuse(const Parts&... what) {
    fail(ExitCode::data, what...);
}

void check_content(const Json& message, const std::string& path) {
    const bool calls = message.contains("tool_calls") && !message["tool_calls"].is_null();
    if (!message.contains("content")) {
        if (!calls) refuse(path, " has no \"content\"");
        return;
    }
    const Json& content = message["content"];
    if (content.is_string() || (content.is_null() && calls)) return;
    if (!content.is_array()) refuse(found(path + ".content", content), "; wanted a string");
    for (size_t i = 0; i < content.size(); ++i) {
        const Json& part = content[i];
        const std::string place = concat(path, ".content[", i, "]");
        if (!part.is_object() || part.value("type", Json()) != "text" ||
            !part.value("text", Json()).is_string())
            refuse(found(place, part), "; wanted {\"type\": \"text\", \"text\": ...}");
    }
}

void check_messages(const Json& messages, const std::string& path) {
    if (!messages.is_array()) refuse(found(path, messages), "; wanted a list of messages");
    if (messages.empty()) refuse(path, " is empty");
    for (size_t i = 0; i < messages.size(); ++i) {
        const Json& message = messages[i];
        const std::string place = concat(path, "[", i, "]");
        if (!message.is_object())
            refuse(found(place, message), "; wanted {\"role\": ..., \"content\": ...}");
        if (!message.contains("role")) refuse(place, " has no \"role\"");
        const Json& role = message["role"];
        if (!role.is_string() ||
            std::ranges::find(kRoles, role.get<std::string>()) == std::end(kRoles))
            refuse(found(place + ".role", role),
                   "; wanted system, developer, user, assistant or tool");
        check_content(message, place);
    }
}

size_t common_length(const std::string& a, const std::string& b) {
    return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

struct Part {
    std::string text;
    bool is_supervised = false, is_ended = true;
};

// The rendered conversation, cut where what the assistant writes begins and ends.
class Cutter {
  public:
    Cutter(const ChatFormat& chat, const std::vector<std::string>& stops, const Json& row,
           Json messages)
        : chat_(chat), stops_(stops), variables_(row), messages_(std::move(messages)) {}

    std::vector<Part> cut(size_t first_supervised) {
        whole_ = render(messages_.size(), false);
        size_t at = 0;
        for (size_t i = first_supervised; i < messages_.size(); ++i) {
            if (messages_[i]["role"] != "assistant") continue;
            const size_t begin = begin_of(i);
            const auto [end, is_ended] = end_of(i, begin);
            if (begin < at) refuse_turn(i);
            if (begin == end) continue;
            parts_.push_back({.text = whole_.substr(at, begin - at)});
            parts_.push_back({whole_.substr(begin, end - begin), true, is_ended});
            at = end;
        }
        parts_.push_back({.text = whole_.substr(at)});
        return std::move(parts_);
    }

  private:
    std::string render(size_t count, bool with_prompt) {
        variables_["messages"] =
            Json(messages_.begin(), messages_.begin() + static_cast<std::ptrdiff_t>(count));
        return chat_.render(variables_, with_prompt);
    }

    [[noreturn]] static void refuse_turn(size_t i) {
        refuse("messages[", i,
               "]: the chat template renders the turn otherwise once others follow it, so "
               "that what is supervised cannot be told; take a template made for training "
               "(data.chat_template), or single turns");
    }

    // Behind what an answer begins with. Some templates begin answers otherwise than history has
    // them, as with <think>; there it is what both have.
    size_t begin_of(size_t i) {
        const std::string prompt = render(i, true);
        if (whole_.starts_with(prompt)) return prompt.size();
        if (!not_in_history_) not_in_history_ = only_in_prompts(chat_, variables_).size();
        const size_t begin = prompt.size() - std::min(prompt.size(), *not_in_history_);
        if (!whole_.starts_with(prompt.substr(0, begin))) refuse_turn(i);
        return begin;
    }

    // Where the last end-of-turn token in [begin, end) of the text begins and ends, if there is
    // one.
    std::optional<std::pair<size_t, size_t>> last_stop(size_t begin, size_t end) const {
        std::optional<std::pair<size_t, size_t>> last;
        for (const std::string& stop : stops_) {
            if (stop.empty() || stop.size() > end) continue;
            const size_t at = whole_.rfind(stop, end - stop.size());
            if (at != std::string::npos && at >= begin && (!last || at > last->first))
                last = {at, at + stop.size()};
        }
        return last;
    }

    // Behind the turn's last end-of-turn token, if it has one; what ends the text behind it, with
    // nothing between, is none of the turn's.
    std::pair<size_t, bool> end_of(size_t i, size_t begin) {
        const std::string turn = render(i + 1, false);
        const size_t same = common_length(turn, whole_);
        auto stop = last_stop(begin, same);
        if (!stop && same < turn.size()) refuse_turn(i);
        if (!stop) return {std::max(begin, same), false};
        for (;;) {
            const auto before = last_stop(begin, stop->first);
            if (!before) break;
            const auto between =
                std::string_view(whole_).substr(before->second, stop->first - before->second);
            if (between.find_first_not_of(" \n") != std::string_view::npos) break;
            stop = before;
        }
        return {stop->second, true};
    }

    const ChatFormat& chat_;
    const std::vector<std::string>& stops_;
    Json variables_;
    const Json messages_;
    std::string whole_;
    std::optional<size_t> not_in_history_;  // of what answers begin with, so many last bytes
    std::vector<Part> parts_;
};

}  // namespace

std::string only_in_prompts(const ChatFormat& chat, Json row) {
    const Json question = {{"role", "user"}, {"content", "?"}},
               answer = {{"role", "assistant"}, {"content", "\u00a7"}};
    row["messages"] = {question};
    const std::string asked = chat.render(row, true);
    row["messages"] = {question, answer};
    return asked.substr(common_length(asked, chat.render(row, false)));
}

std::optional<std::string> prompt_note(const ChatFormat& chat) try {
    const std::string text = only_in_prompts(chat, Json::object());
    if (text.empty()) return std::nullopt;
    const std::string quoted = Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
    return concat("WARNING: the chat template's prompts end with ", printable(quoted),
                  ", and answers in conversations do not begin with it: the model is trained on "
                  "answers without that text, while generate --chat asks with it; a template whose "
                  "prompts end as its answers begin (data.chat_template, --chat-template) has both "
                  "alike");
} catch (const Error&) {  // it cannot do with these two messages, or not at all: rows will tell
    return std::nullopt;
}

void check_conversation(const Row& row) {
    const Json& json = *row.json;
    if (row.kind == RowKind::messages) return check_messages(json["messages"], "messages");
    const Json &prompt = json["prompt"], &completion = json["completion"];
    if (prompt.is_string() && completion.is_string()) return;
    if (!prompt.is_array() || !completion.is_array())
        refuse(found(prompt.is_array() ? "completion" : "prompt",
                     prompt.is_array() ? completion : prompt),
               "; wanted two strings, or two lists of messages");
    check_messages(prompt, "prompt");
    check_messages(completion, "completion");
}

ConversationEncoder::Encoded ConversationEncoder::append(const Row& row, std::vector<int32_t>& ids,
                                                         std::vector<uint8_t>& supervised) const {
    check_conversation(row);
    const Json& json = *row.json;
    supervised.resize(ids.size(), 1);
    Encoded out;
    if (row.kind == RowKind::completion && json["prompt"].is_string()) {
        const auto completion = json["completion"].get<std::string>();
        if (completion.empty()) return out;
        ids.insert(ids.end(), begin.begin(), begin.end());
        encode(json["prompt"].get<std::string>(), ids);
        supervised.resize(ids.size(), 0);
        const size_t start = ids.size();
        encode(completion, ids);
        if (end) ids.push_back(*end);
        supervised.resize(ids.size(), 1);
        out.supervised = static_cast<int64_t>(ids.size() - start);
        return out;
    }
    if (!chat)
        fail(ExitCode::usage,
             "messages need a chat template, and the tokenizer has none; name one by "
             "data.chat_template (--chat-template)");
    const bool all = row.kind == RowKind::messages;
    Json messages = json[all ? "messages" : "prompt"];
    const size_t first = all ? 0 : messages.size();
    if (!all) messages.insert(messages.end(), json["completion"].begin(), json["completion"].end());
    for (const Part& part : Cutter(*chat, stops, json, std::move(messages)).cut(first)) {
        const size_t start = ids.size();
        encode(part.text, ids);
        supervised.resize(ids.size(), part.is_supervised ? 1 : 0);
        if (!part.is_supervised) continue;
        out.supervised += std::ssize(ids) - static_cast<int64_t>(start);
        out.is_ended = part.is_ended;
    }
    return out;
}

}  // namespace fucina
