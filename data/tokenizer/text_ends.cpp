#include "data/tokenizer/text_ends.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "data/file.h"
#include "data/json.h"
#include "data/tokenizer/json_reader.h"
#include "kernels/error.h"

namespace fucina {
namespace {

constexpr int64_t kMaxFile = int64_t{1} << 28;

// What models call the end of a text, or of a turn of a conversation.
constexpr const char* kTextEnds[] = {"<|endoftext|>", "<｜end▁of▁sentence｜>", "<|end_of_text|>",
                                     "</s>"};
constexpr const char* kTurnEnds[] = {"<|im_end|>", "<|eot_id|>",  "<|eom_id|>", "<end_of_turn>",
                                     "<|end|>",    "<|return|>",  "<|call|>",   "<|EOT|>",
                                     "<|user|>",   "[/TURN_END]", "<turn|>"};

std::optional<nlohmann::json> read_beside(const std::filesystem::path& path, const char* name) {
    const auto beside = std::filesystem::path(path).replace_filename(name);
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(beside, ignored)) return std::nullopt;
    return read_json_file(beside, kMaxFile, ExitCode::data);
}

class Reader {
  public:
    Reader(const std::filesystem::path& path, const TokenIds& ids) : path_(path), ids_(ids) {}

    TextEndSources read(const nlohmann::json& root) {
        out_.config =
            std::filesystem::path(path_).replace_filename("tokenizer_config.json").string();
        within(path_.filename().c_str(), root, [&](const JsonValue& tokenizer) {
            if (const auto processor = tokenizer.find("post_processor")) read_processor(*processor);
            if (const auto added = tokenizer.find("added_tokens")) read_special(*added);
        });
        const auto config = read_beside(path_, "tokenizer_config.json");
        if (config)
            within("tokenizer_config.json", *config, [&](const JsonValue& json) {
                read_names(json, "tokenizer_config.json");
                if (const auto add = json.find("add_bos_token")) out_.add_bos = add->boolean();
            });
        const auto map = read_beside(path_, "special_tokens_map.json");
        if (map)
            within("special_tokens_map.json", *map,
                   [&](const JsonValue& json) { read_names(json, "special_tokens_map.json"); });
        read_turn_ends(config);
        return std::move(out_);
    }

  private:
    template <class Read>
    void within(const char* name, const nlohmann::json& json, const Read& read) const {
        try {
            read(JsonValue(json, ""));
        } catch (const Error& error) {
            fail(error.code(), std::filesystem::path(path_).replace_filename(name).string(), ": ",
                 error.what());
        }
    }

    NamedToken token(const JsonValue& json, std::string_view name, const std::string& from) const {
        const auto found = ids_.find(std::string(name));
        if (found == ids_.end())
            json.refuse("token ", quoted(name), " is not in ", path_.filename().string());
        return {found->second, std::string(name), from};
    }

    // eos_token and bos_token: a string or {"content": string}.
    void read_names(const JsonValue& json, const std::string& file) {
        const auto named = [&](const char* key) -> std::optional<NamedToken> {
            const auto value = json.find(key);
            if (!value) return std::nullopt;
            const JsonValue name = value->is_string() ? *value : value->at("content");
            return token(name, name.string(), concat(key, " of ", file));
        };
        const auto bos = named("bos_token"), eos = named("eos_token");
        if (!out_.bos) out_.bos = bos;
        if (!out_.eos)
            out_.eos = eos;
        else if (eos && eos->id != out_.eos->id)
            out_.more_ends.push_back(*eos);
    }

    void read_special(const JsonValue& added) {
        int64_t count = 0;
        added.for_each([&](const JsonValue& item) {
            if (!item.at("special").boolean() || ++count > 1) return;
            out_.only_special = token(item, item.at("content").string(), "the only special token");
        });
        if (count > 1) out_.only_special.reset();
    }

    // TemplateProcessing around a single text: its tokens before and behind it.
    void read_processor(const JsonValue& json) {
        const std::string_view type = json.at("type").string();
        if (type == "Sequence")
            json.at("processors").for_each([&](const JsonValue& item) { read_processor(item); });
        if (type != "TemplateProcessing") return;
        bool behind = false;
        json.at("single").for_each([&](const JsonValue& item) {
            if (item.find("Sequence")) behind = true;
            const auto special = item.find("SpecialToken");
            if (!special) return;
            const std::string_view name = special->at("id").string();
            json.at("special_tokens").at(name).at("tokens").for_each([&](const JsonValue& one) {
                (behind ? out_.template_end : out_.template_begin)
                    .push_back(token(one, one.string(), "the template of tokenizer.json"));
            });
        });
    }

    void read_turn_ends(const std::optional<nlohmann::json>& config) {
        const auto jinja = std::filesystem::path(path_).replace_filename("chat_template.jinja");
        std::error_code ignored;
        if (std::filesystem::is_regular_file(jinja, ignored))
            out_.chat_template = read_text_file(jinja, kMaxFile);
        else if (config && config->is_object() && config->contains("chat_template"))
            out_.chat_template = config->at("chat_template").dump();
        for (const char* name : kTurnEnds)
            if (const auto found = ids_.find(name); found != ids_.end())
                out_.turn_ends.push_back({found->second, name, "the chat template"});
    }

    const std::filesystem::path path_;
    const TokenIds& ids_;
    TextEndSources out_;
};

std::string in_words(const NamedToken& token) {
    return concat(token.name, " = ", token.id, " (", token.from, ")");
}

NamedToken chosen(const std::string& name, const char* key, const TokenIds& ids) {
    const auto found = ids.find(name);
    if (found == ids.end())
        fail(ExitCode::usage, key, " = \"", name,
             "\" is no token of the tokenizer; take \"auto\", \"none\" or a token's name");
    return {found->second, name, key};
}

std::vector<NamedToken> begin_tokens(const TextEndSources& sources, const std::string& choice,
                                     const TokenIds& ids) {
    if (choice == "none") return {};
    if (choice != "auto") return {chosen(choice, "data.begin_token", ids)};
    const bool refused = sources.add_bos && !*sources.add_bos;
    if (!sources.template_begin.empty() && !refused) return sources.template_begin;
    if (!sources.template_begin.empty()) {
        const std::string& name = sources.template_begin.front().name;
        fail(ExitCode::usage, sources.config,
             ": add_bos_token is false, but tokenizer.json's template begins "
             "every text with ",
             name, "; say which by data.begin_token (--begin-token) = \"none\" or \"", name, "\"");
    }
    if (!sources.add_bos || !*sources.add_bos) return {};
    if (!sources.bos)
        fail(ExitCode::usage, sources.config,
             ": add_bos_token is true, but no bos_token is named; name one by "
             "data.begin_token (--begin-token), or \"none\"");
    NamedToken bos = *sources.bos;
    bos.from = concat("add_bos_token, ", bos.from);
    return {bos};
}

std::optional<NamedToken> end_token(const TextEndSources& sources, const std::string& choice,
                                    const TokenIds& ids) {
    if (choice == "none") return std::nullopt;
    if (choice != "auto") return chosen(choice, "data.end_token", ids);
    if (!sources.template_end.empty()) return sources.template_end.front();
    if (sources.eos) return sources.eos;
    for (const char* name : kTextEnds) {
        const auto found = ids.find(name);
        if (found != ids.end()) return NamedToken{found->second, name, "by its name"};
    }
    return sources.only_special;
}

}  // namespace

TextEndSources read_text_ends(const std::filesystem::path& path, const nlohmann::json& root,
                              const TokenIds& ids) {
    return Reader(path, ids).read(root);
}

TextEnds resolve_text_ends(const TextEndSources& sources, const TextEndChoice& choice,
                           const TokenIds& ids) {
    TextEnds ends;
    ends.note = "texts    begin with ";
    const std::vector<NamedToken> begin = begin_tokens(sources, choice.begin, ids);
    for (const NamedToken& token : begin) {
        ends.note += (ends.begin.empty() ? "" : ", ") + in_words(token);
        ends.begin.push_back(token.id);
    }
    if (begin.empty()) ends.note += "no token";
    const std::optional<NamedToken> end = end_token(sources, choice.end, ids);
    ends.note += "; end with " + (end ? in_words(*end) : "no token");
    std::vector<NamedToken> stops = sources.template_end;
    stops.insert(stops.end(), sources.more_ends.begin(), sources.more_ends.end());
    const std::string& written =
        choice.chat_template.empty() ? sources.chat_template : choice.chat_template;
    for (const NamedToken& token : sources.turn_ends)
        if (written.find(token.name) != std::string::npos) stops.push_back(token);
    if (sources.eos) stops.push_back(*sources.eos);
    if (end) {
        ends.end = end->id;
        ends.stops = {end->id};
    }
    for (const NamedToken& token : stops) {
        if (std::ranges::find(ends.stops, token.id) != ends.stops.end()) continue;
        ends.note += concat("; also stop at ", in_words(token));
        ends.stops.push_back(token.id);
    }
    std::ranges::sort(ends.stops);
    if (!begin.empty())
        ends.start = begin.front().id;
    else if (sources.bos && choice.begin == "auto")
        ends.start = sources.bos->id;
    return ends;
}

std::vector<int32_t> with_stops(std::vector<int32_t> stops, std::span<const int32_t> more) {
    std::set<int32_t> all(stops.begin(), stops.end());
    all.insert(more.begin(), more.end());
    return {all.begin(), all.end()};
}

}  // namespace fucina
