// Reads a tokenizer.json into the parts that encode and decode.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/pre_tokenizer.h"

namespace fucina {

struct TokenizerParts {
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    Bpe bpe;
    std::vector<AddedToken> added;                    // with their ids
    AddedTokenFinder raw_finder, normalized_finder;   // of tokens with normalized = false and true
    std::unordered_map<std::string, int32_t> ids;     // content, as in the file -> id
    std::vector<std::optional<std::string>> decoded;  // id -> bytes
    std::string separator;  // between decoded tokens (" " without a decoder)
};

// Throws Error(ExitCode::data) with "what, where", without the path.
TokenizerParts read_tokenizer(const nlohmann::json& root);

}  // namespace fucina
