// The pipeline: repair, added tokens, normalize, added tokens again, split into words, merge.
#include "data/tokenizer/tokenizer.h"

#include <xxhash.h>

#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "data/json.h"
#include "data/tokenizer/tokenizer_file.h"

namespace fucina {
namespace {

constexpr int64_t kMaxFile = int64_t{1} << 28;

}  // namespace

struct Tokenizer::State {
    TokenizerParts parts;
    TextEndSources ends;
    std::string hash;
};

Tokenizer Tokenizer::load(const std::string& path) {
    auto state = std::make_shared<State>();
    const std::string text = read_text_file(path, kMaxFile);
    const nlohmann::json root = parse_json(text, path, ExitCode::data);
    try {
        state->parts = read_tokenizer(root);
        char digits[17];
        std::snprintf(digits, sizeof digits, "%016llx",
                      static_cast<unsigned long long>(XXH3_64bits(text.data(), text.size())));
        state->hash = digits;
    } catch (const Error& error) {
        fail(error.code(), path, ": ", error.what());
    }
    state->ends = read_text_ends(path, root, state->parts.ids);
    return Tokenizer(std::move(state));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
    if (text.size() >= std::numeric_limits<uint32_t>::max()) {
        fail(ExitCode::data, "a text of ", text.size(),
             " bytes is too long to be tokenized at once (under 4 GB)");
    }
    const TokenizerParts& parts = state_->parts;
    std::string repaired;
    if (!is_valid_utf8(text)) text = repaired = repair_utf8(text);
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 4);
    std::vector<TextPiece> raw, normalized;
    std::string buffer;
    parts.raw_finder.split(text, raw);
    for (const TextPiece& piece : raw) {
        if (piece.id >= 0) {
            ids.push_back(piece.id);
            continue;
        }
        std::string_view inside = piece.text;
        if (!parts.normalizer.changes_nothing()) inside = buffer = parts.normalizer.apply(inside);
        normalized.clear();
        parts.normalized_finder.split(inside, normalized);
        for (const TextPiece& part : normalized) {
            if (part.id >= 0) {
                ids.push_back(part.id);
            } else {
                parts.pre_tokenizer.split(
                    part.text, [&](std::string_view word) { parts.bpe.encode(word, ids); });
            }
        }
    }
    return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
    const TokenizerParts& parts = state_->parts;
    std::string bytes;
    bool first = true;
    for (const int32_t id : ids) {
        if (id < 0 || id >= vocab_size() || !parts.decoded[static_cast<size_t>(id)]) continue;
        if (!first) bytes += parts.separator;
        bytes += *parts.decoded[static_cast<size_t>(id)];
        first = false;
    }
    return is_valid_utf8(bytes) ? bytes : repair_utf8(bytes);
}

int64_t Tokenizer::vocab_size() const {
    return static_cast<int64_t>(state_->parts.decoded.size());
}

std::vector<int32_t> Tokenizer::token_bytes() const {
    std::vector<int32_t> bytes;
    for (const std::optional<std::string>& token : state_->parts.decoded) {
        bytes.push_back(token ? static_cast<int32_t>(token->size()) : 0);
    }
    for (const AddedToken& added : state_->parts.added) {
        if (added.special) bytes[static_cast<size_t>(added.id)] = 0;
    }
    return bytes;
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
    const auto found = state_->parts.ids.find(std::string(token));
    return found == state_->parts.ids.end() ? std::nullopt : std::optional(found->second);
}

TextEnds Tokenizer::ends(const TextEndChoice& choice) const {
    return resolve_text_ends(state_->ends, choice, state_->parts.ids);
}

const std::string& Tokenizer::hash() const {
    return state_->hash;
}

}  // namespace fucina
