// Learns a byte-level BPE vocabulary from text and writes it as a Hugging Face tokenizer.json.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/text_check.h"

namespace fucina {

struct TokenizerTraining {
    std::vector<std::filesystem::path> inputs;  // text; invalid UTF-8 counts as U+FFFD
    int64_t vocab_size = 0;                     // at least 257: the bytes and the EOS token
    std::string eos = "<|endoftext|>";          // gets id 0; the inputs are cut where it stands
    double broken_limit = kBrokenLimit;         // of an input's bytes, not UTF-8; more: Error(data)
};

struct TrainedTokenizer {
    std::string json;
    int64_t vocab_size = 0;    // less than asked for if no pair of tokens occurs twice any more
    int64_t words = 0;         // different words in the inputs
    int64_t bytes = 0;         // of the inputs
    int64_t broken_bytes = 0;  // of them, not UTF-8: read as U+FFFD
};

// The same inputs give the same file, on any machine. Throws Error(usage) for an impossible
// vocabulary size or EOS token, Error(data) for an input that cannot be read or is empty.
TrainedTokenizer train_tokenizer(const TokenizerTraining& training);

}  // namespace fucina
