// Words are counted with the pre-tokenizer that the written file names, so training and use cut
// text alike.
#include "data/tokenizer/trainer.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <unordered_map>

#include "data/file.h"
#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/pair_merger.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "kernels/error.h"

namespace fucina {
namespace {

constexpr int64_t kMaxInput = (int64_t{1} << 32) - 2;
constexpr int64_t kMaxVocabulary = 1 << 20;

// English contractions; a word with the space or sign before it; digits by three; signs; line ends;
// spaces, of which the last one goes with the word behind.
constexpr std::string_view kWords =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{M}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

using WordCounts = std::map<std::string, int64_t, std::less<>>;

struct Vocabulary {
    std::vector<std::string> tokens;  // by id, as in the file
    std::unordered_map<std::string, int32_t> ids;
    std::vector<std::pair<std::string, std::string>> merges;

    int32_t add(const std::string& token) {
        const auto [place, fresh] = ids.try_emplace(token, static_cast<int32_t>(tokens.size()));
        if (fresh) tokens.push_back(token);
        return place->second;
    }
};

void check(const TokenizerTraining& training) {
    if (training.vocab_size < 257 || training.vocab_size > kMaxVocabulary) {
        fail(ExitCode::usage, "a vocabulary of ", training.vocab_size,
             " tokens; it holds from 257 (every byte and the EOS "
             "token) to ",
             kMaxVocabulary);
    }
    if (training.eos.size() < 2 || training.eos.size() > 256 || !is_valid_utf8(training.eos)) {
        fail(ExitCode::usage, "the EOS token \"", printable(training.eos),
             "\" must be UTF-8 of 2 to 256 bytes");
    }
    if (training.inputs.empty()) fail(ExitCode::usage, "no text to train a tokenizer on");
}

AddedTokenFinder finder_of(const std::string& eos) {
    AddedTokenFinder finder;
    finder.add({.content = eos, .id = 0, .special = true, .normalized = false}, eos);
    return finder;
}

PreTokenizer word_splitter() {
    PreTokenizer splitter;
    splitter.append({.pattern = Regex(kWords)});
    return splitter;
}

void count_words(const TokenizerTraining& training, WordCounts& counts, TrainedTokenizer& result) {
    const PreTokenizer splitter = word_splitter();
    const AddedTokenFinder finder = finder_of(training.eos);
    for (const std::filesystem::path& input : training.inputs) {
        std::string text = read_text_file(input, kMaxInput);
        check_is_text(input.string(), std::string_view(text).substr(0, kTextHead));
        result.bytes += static_cast<int64_t>(text.size());
        const int64_t broken = count_broken_utf8(text), bytes = std::ssize(text);
        if (static_cast<double>(broken) > training.broken_limit * static_cast<double>(bytes))
            fail(ExitCode::data, input.string(), ": ", broken_bytes_in_words(broken, bytes),
                 "; --broken-limit takes them for U+FFFD");
        result.broken_bytes += broken;
        if (broken > 0) text = repair_utf8(text);
        std::vector<TextPiece> pieces;
        finder.split(text, pieces);
        std::unordered_map<std::string_view, int64_t> local;
        for (const TextPiece& piece : pieces) {
            if (piece.id < 0)
                splitter.split(piece.text, [&](std::string_view word) { ++local[word]; });
        }
        for (const auto& [word, count] : local) {
            const auto place = counts.find(word);
            if (place != counts.end()) {
                place->second += count;
            } else {
                counts.emplace(word, count);
            }
        }
    }
    result.words = static_cast<int64_t>(counts.size());
    if (counts.empty())
        fail(ExitCode::data, training.inputs.front().string(), ": no text to train a tokenizer on");
}

Vocabulary learn(const TokenizerTraining& training, const WordCounts& counts) {
    Vocabulary vocabulary;
    vocabulary.add(training.eos);
    for (int byte = 0; byte < 256; ++byte)
        vocabulary.add(to_byte_level(std::string(1, static_cast<char>(byte))));
    PairMerger merger;
    std::set<SymbolPair> merged;
    for (const auto& [word, count] : counts) {
        std::vector<int32_t> symbols;
        for (const char c : word) symbols.push_back(1 + static_cast<uint8_t>(c));
        merger.add_word(std::move(symbols), count);
    }
    while (static_cast<int64_t>(vocabulary.tokens.size()) < training.vocab_size) {
        const std::optional<SymbolPair> pair = merger.next();
        if (!pair) break;
        const std::string left = vocabulary.tokens[static_cast<size_t>(pair->left)];
        const std::string right = vocabulary.tokens[static_cast<size_t>(pair->right)];
        if (left + right == training.eos) continue;
        // Two ways to the same text share one token, which can bring a pair up that was merged
        // before.
        merger.merge(*pair, vocabulary.add(left + right));
        if (merged.insert(*pair).second) vocabulary.merges.emplace_back(left, right);
    }
    return vocabulary;
}

std::string json_string(std::string_view text) {
    return nlohmann::json(text).dump();
}

std::string to_json(const Vocabulary& vocabulary, const std::string& eos) {
    const std::string byte_level =
        R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, )";
    std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n";
    out += "  \"added_tokens\": [\n    {\"id\": 0, \"content\": " + json_string(eos) +
           ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
           "\"special\": true}\n  ],\n";
    out +=
        "  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": "
        "[\n"
        "    {\"type\": \"Split\", \"pattern\": {\"Regex\": " +
        json_string(kWords) + "}, \"behavior\": \"Isolated\", \"invert\": false},\n    " +
        byte_level + "\"use_regex\": false}\n  ]},\n";
    out += "  \"post_processor\": null,\n  \"decoder\": " + byte_level + "\"use_regex\": true},\n";
    out +=
        "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
        "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    "
        "\"fuse_unk\": false,\n"
        "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";
    for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
        out += (id == 0 ? "\n      " : ",\n      ") + json_string(vocabulary.tokens[id]) + ": " +
               std::to_string(id);
    }
    out += "\n    },\n    \"merges\": [";
    for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
        const auto& [left, right] = vocabulary.merges[i];
        out += (i == 0 ? "\n      [" : ",\n      [") + json_string(left) + ", " +
               json_string(right) + "]";
    }
    return out + "\n    ]\n  }\n}\n";
}

}  // namespace

TrainedTokenizer train_tokenizer(const TokenizerTraining& training) {
    check(training);
    TrainedTokenizer result;
    WordCounts counts;
    count_words(training, counts, result);
    const Vocabulary vocabulary = learn(training, counts);
    result.vocab_size = static_cast<int64_t>(vocabulary.tokens.size());
    result.json = to_json(vocabulary, training.eos);
    return result;
}

}  // namespace fucina
