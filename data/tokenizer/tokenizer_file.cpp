// The sections of tokenizer.json, each refused with its place where it holds something that
// byte-level models do not use.
#include "data/tokenizer/tokenizer_file.h"

#include <algorithm>

#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/json_reader.h"

namespace fucina {
namespace {

constexpr int64_t kMaxId = (1 << 22) - 1;
constexpr size_t kMaxStages = 16;  // normalizers, and pre-tokenizers
using Ids = std::unordered_map<std::string, int32_t>;

void read_normalizer(const JsonValue& json, Normalizer& out) {
    if (out.size() >= kMaxStages) json.refuse("more than ", kMaxStages, " normalizers");
    const std::string_view type = json.at("type").string();
    if (type == "Sequence") {
        json.at("normalizers").for_each([&](const JsonValue& item) { read_normalizer(item, out); });
    } else if (type == "NFC") {
        out.append(Normalizer::Form::nfc);
    } else if (type == "NFD") {
        out.append(Normalizer::Form::nfd);
    } else {
        json.refuse("normalizer ", quoted(type), " is not supported (NFC, NFD and Sequence are)");
    }
}

SplitBehavior read_behavior(const JsonValue& json) {
    constexpr std::string_view names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                          "MergedWithNext", "Contiguous"};
    const auto found = std::find(std::begin(names), std::end(names), json.string());
    if (found == std::end(names)) json.refuse("unknown behavior ", quoted(json.string()));
    return static_cast<SplitBehavior>(found - std::begin(names));
}

// Runs `make`, and adds the place to what a bad pattern says.
Regex read_pattern(const JsonValue& json) {
    try {
        if (const auto pattern = json.find("Regex")) return Regex(pattern->string());
        const JsonValue text = json.at("String");
        if (text.string().empty()) text.refuse("an empty pattern");
        return Regex::literal(text.string());
    } catch (const Error& error) {
        json.refuse("unsupported pattern: ", error.what());
    }
}

void read_pre_tokenizer(const JsonValue& json, PreTokenizer& out, bool& complete) {
    const std::string_view type = json.at("type").string();
    if (type == "Sequence") {
        json.at("pretokenizers").for_each([&](const JsonValue& item) {
            read_pre_tokenizer(item, out, complete);
        });
        return;
    }
    if (out.size() >= kMaxStages) json.refuse("more than ", kMaxStages, " pre-tokenizers");
    if (complete) json.refuse("a pre-tokenizer after ByteLevel is not supported");
    if (type == "Split") {
        out.append({.pattern = read_pattern(json.at("pattern")),
                    .behavior = read_behavior(json.at("behavior")),
                    .invert = json.at("invert").boolean()});
    } else if (type == "Digits") {
        const bool single = json.boolean_or("individual_digits", false);
        out.append({.pattern = Regex::of_set(numeric_set()),
                    .behavior = single ? SplitBehavior::isolated : SplitBehavior::contiguous});
    } else if (type == "ByteLevel") {
        PreTokenizer::ByteLevel byte_level{
            .add_prefix_space = json.boolean_or("add_prefix_space", true), .words = {}};
        if (json.boolean_or("use_regex", true)) {
            byte_level.words = SplitRule{.pattern = Regex(PreTokenizer::kGpt2Pattern)};
        }
        out.set_byte_level(std::move(byte_level));
        complete = true;
    } else {
        json.refuse("pre-tokenizer ", quoted(type),
                    " is not supported (Split, Digits and ByteLevel are)");
    }
}

bool has_byte_level_decoder(const JsonValue& json) {
    const std::string_view type = json.at("type").string();
    if (type == "ByteLevel") return true;
    if (type != "Sequence")
        json.refuse("decoder ", quoted(type), " is not supported (ByteLevel is)");
    int64_t count = 0;
    json.at("decoders").for_each([&](const JsonValue& item) {
        if (++count > 1) item.refuse("more than one decoder is not supported");
        has_byte_level_decoder(item);
    });
    if (count == 0) json.refuse("a decoder without parts is not supported");
    return true;
}

int32_t look_up(const Ids& ids, const std::string& token, const JsonValue& merge) {
    const auto found = ids.find(token);
    if (found == ids.end()) merge.refuse(quoted(token), " is not in the vocabulary");
    return found->second;
}

MergeTable read_merges(const JsonValue& json, const Ids& ids) {
    int32_t rank = 0;
    MergeTable merges(json.size());
    json.for_each([&](const JsonValue& item) {
        std::string left, right;
        if (item.is_string()) {
            const std::string_view text = item.string();
            if (text.starts_with("#version")) return;
            const size_t space = text.find(' ');
            if (space == std::string_view::npos ||
                text.find(' ', space + 1) != std::string_view::npos) {
                item.refuse("expected two tokens with one space between, found ", quoted(text));
            }
            left = text.substr(0, space);
            right = text.substr(space + 1);
        } else {
            std::vector<std::string> pair;
            item.for_each([&](const JsonValue& part) { pair.emplace_back(part.string()); });
            if (pair.size() != 2) item.refuse("expected a pair of tokens, found ", pair.size());
            left = std::move(pair[0]);
            right = std::move(pair[1]);
        }
        const int32_t left_id = look_up(ids, left, item), right_id = look_up(ids, right, item);
        merges.insert(left_id, right_id, {rank++, look_up(ids, left + right, item)});
    });
    return merges;
}

Ids read_vocabulary(const JsonValue& json) {
    Ids ids;
    ids.reserve(json.size());
    json.for_each_id(kMaxId, [&](const std::string& token, int32_t id) { ids.emplace(token, id); });
    std::vector<bool> taken(static_cast<size_t>(kMaxId) + 1);
    for (const auto& [token, id] : ids) {
        if (taken[static_cast<size_t>(id)])
            json.refuse("id ", id, " belongs to two tokens, one of them ", quoted(token));
        taken[static_cast<size_t>(id)] = true;
    }
    return ids;
}

// The flag alone changes nothing, and transformers sets it for DeepSeek-V3: what unknown characters
// fall back to are the pieces <0x00> to <0xFF>.
void refuse_byte_fallback(const JsonValue& model, const Ids& ids) {
    if (!model.boolean_or("byte_fallback", false)) return;
    constexpr std::string_view digits = "0123456789ABCDEF";
    for (const char high : digits) {
        for (const char low : digits) {
            if (ids.contains(std::string("<0x") + high + low + ">"))
                model.at("byte_fallback")
                    .refuse("byte fallback to <0x", high, low,
                            "> is not supported (the tokenizer must be byte-level)");
        }
    }
}

void refuse_unsupported(const JsonValue& model) {
    const std::string_view type = model.string_or("type", "BPE");
    if (type != "BPE")
        model.refuse("model type ", quoted(type), " is not supported (byte-level BPE is)");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
        if (!model.string_or(key, "").empty())
            model.at(key).refuse("a prefix or suffix of tokens is not supported");
    }
    if (const auto dropout = model.find("dropout")) {
        if (!dropout->is_zero()) dropout->refuse("dropout is not supported");
    }
}

void read_model(const JsonValue& model, TokenizerParts& out) {
    refuse_unsupported(model);
    out.ids = read_vocabulary(model.at("vocab"));
    refuse_byte_fallback(model, out.ids);
    Bpe::Parts parts;
    parts.ignore_merges = model.boolean_or("ignore_merges", false);
    parts.words.reserve(out.ids.size());
    std::string bytes;
    for (const auto& [token, id] : out.ids) {
        if (from_byte_level(token, bytes)) parts.words.emplace(bytes, id);
    }
    for (int byte = 0; byte < 256; ++byte) {
        const auto found = parts.words.find(std::string(1, static_cast<char>(byte)));
        parts.byte_ids[static_cast<size_t>(byte)] = found == parts.words.end() ? -1 : found->second;
        if (found == parts.words.end() && model.find("unk_token")) {
            model.refuse("no token for byte ", byte, " (an unknown token is not supported)");
        }
    }
    parts.merges = read_merges(model.at("merges"), out.ids);
    out.bpe = Bpe(std::move(parts));
}

// Of two tokens that normalize alike the later one is found. The tokenizers library takes either, by
// the order of a hash table that differs from load to load.
void fill_finders(TokenizerParts& out) {
    for (auto token = out.added.rbegin(); token != out.added.rend(); ++token) {
        const std::string pattern =
            token->normalized ? out.normalizer.apply(token->content) : token->content;
        AddedTokenFinder& finder = token->normalized ? out.normalized_finder : out.raw_finder;
        if (!pattern.empty()) finder.add(*token, pattern);
    }
}

// A token gets its id in the vocabulary, or the next free one behind it; the `id` in the file is
// only informative, as in the tokenizers library.
void read_added_tokens(const JsonValue& json, TokenizerParts& out) {
    auto next_id = static_cast<int32_t>(out.ids.size());
    std::unordered_map<int32_t, size_t> index_of;
    json.for_each([&](const JsonValue& item) {
        AddedToken token{.content = std::string(item.at("content").string())};
        if (token.content.size() > AddedTokenFinder::kMaxLength) {
            item.refuse("a token of ", token.content.size(), " bytes (at most ",
                        AddedTokenFinder::kMaxLength, ")");
        }
        token.special = item.at("special").boolean();
        token.single_word = item.at("single_word").boolean();
        token.lstrip = item.at("lstrip").boolean();
        token.rstrip = item.at("rstrip").boolean();
        token.normalized = item.at("normalized").boolean();
        if (token.content.empty()) return;
        const auto [place, fresh] = out.ids.try_emplace(token.content, next_id);
        token.id = place->second;
        if (fresh && next_id++ > kMaxId) item.refuse("more than ", kMaxId + 1, " tokens");
        const auto [known, first_of_id] = index_of.try_emplace(token.id, out.added.size());
        if (first_of_id) {
            out.added.push_back(std::move(token));
        } else {
            out.added[known->second] = std::move(token);
        }
    });
    fill_finders(out);
}

void fill_decoded(TokenizerParts& out, bool byte_level) {
    int32_t largest = -1;
    for (const auto& [token, id] : out.ids) largest = std::max(largest, id);
    out.decoded.resize(static_cast<size_t>(largest) + 1);
    const auto store = [&](int32_t id, const std::string& token) {
        std::string bytes;
        const bool mapped = byte_level && from_byte_level(token, bytes);
        out.decoded[static_cast<size_t>(id)] = mapped ? bytes : token;
    };
    for (const auto& [token, id] : out.ids) store(id, token);
    for (const AddedToken& token : out.added) {
        store(token.id, token.normalized ? out.normalizer.apply(token.content) : token.content);
    }
    if (!byte_level) out.separator = " ";
}

}  // namespace

TokenizerParts read_tokenizer(const nlohmann::json& root) {
    const JsonValue json(root, "");
    TokenizerParts out;
    const JsonValue model = json.at("model");
    refuse_unsupported(model);
    if (const auto normalizer = json.find("normalizer"))
        read_normalizer(*normalizer, out.normalizer);
    bool byte_level = false;
    if (const auto splits = json.find("pre_tokenizer"))
        read_pre_tokenizer(*splits, out.pre_tokenizer, byte_level);
    if (!byte_level) json.refuse("the pre-tokenizer has no ByteLevel: not a byte-level tokenizer");
    const auto decoder = json.find("decoder");
    const bool byte_level_decoder = decoder && has_byte_level_decoder(*decoder);
    read_model(model, out);
    if (const auto added = json.find("added_tokens")) read_added_tokens(*added, out);
    fill_decoded(out, byte_level_decoder);
    return out;
}

}  // namespace fucina
