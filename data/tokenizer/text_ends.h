// Where texts begin and end, by all that a tokenizer's files say: the template of tokenizer.json's
// post-processor; bos_token, eos_token, add_bos_token and the chat template of
// tokenizer_config.json; special_tokens_map.json. docs/formats.md ("Beginnings and ends") has the
// rules.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace fucina {

// A token that a file names, and where.
struct NamedToken {
    int32_t id = 0;
    std::string name, from;
};

// What the files say. Ids are the tokenizer's.
struct TextEndSources {
    std::vector<NamedToken> template_begin, template_end;  // around a text
    std::optional<NamedToken> bos, eos;
    std::optional<NamedToken> only_special;        // the one special token, if there is one alone
    std::vector<NamedToken> more_ends;             // other names of eos_token
    std::vector<NamedToken> turn_ends;             // those that chat templates may write
    std::string chat_template;                     // as it lies beside the tokenizer
    std::optional<bool> add_bos;                   // add_bos_token
    std::string config = "tokenizer_config.json";  // its path, for messages
};

using TokenIds = std::unordered_map<std::string, int32_t>;

// The sources beside `path`, a tokenizer.json whose content is `root`. A name that the tokenizer
// does not have is Error(data).
TextEndSources read_text_ends(const std::filesystem::path& path, const nlohmann::json& root,
                              const TokenIds& ids);

// data.begin_token and data.end_token: "auto", "none", or a token's name. A chat template instead
// of the one beside the tokenizer, where it is not empty.
struct TextEndChoice {
    std::string begin = "auto", end = "auto";
    std::string chat_template = {};
};

struct TextEnds {
    std::vector<int32_t> begin;    // before every text
    std::optional<int32_t> end;    // after a document that is trained on
    std::optional<int32_t> start;  // of a text that begins with nothing
    std::vector<int32_t> stops;    // any of them ends a generated text; ascending
    std::string note;              // what was taken from where, one line
};

// Error(usage) where the sources contradict each other, or the choice is no token: names both and
// the keys that decide.
TextEnds resolve_text_ends(const TextEndSources& sources, const TextEndChoice& choice,
                           const TokenIds& ids);

// More ends of generated texts, as config.json has them; ascending, each once.
std::vector<int32_t> with_stops(std::vector<int32_t> stops, std::span<const int32_t> more);

}  // namespace fucina
