// Text to token ids and back, from a Hugging Face tokenizer.json with byte-level BPE (DeepSeek,
// Qwen, Llama 3, gpt-oss): encode() equals that library's encode(text,
// add_special_tokens=False).ids, decode() its decode(ids, skip_special_tokens=False). Truncation
// and padding in the file are ignored.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/text_ends.h"

namespace fucina {

class Tokenizer {
  public:
    // Reads the file, and what lies beside it and says where texts begin and end (text_ends.h).
    // Throws Error(ExitCode::data), "path: what, where", on a file that is
    // missing, broken or of another kind.
    static Tokenizer load(const std::string& path);

    // Invalid UTF-8 counts as U+FFFD. Any thread may call at any time. Text of 4 GB or more is
    // refused.
    std::vector<int32_t> encode(std::string_view text) const;
    // Always valid UTF-8; ids that no token has are left out.
    std::string decode(std::span<const int32_t> ids) const;

    int64_t vocab_size() const;  // the largest id + 1: rows of an embedding
    // Bytes of text that each id stands for; 0 for special tokens and for ids that no token has.
    std::vector<int32_t> token_bytes() const;
    std::optional<int32_t> id_of(
        std::string_view token) const;  // in the file's spelling (space is Ġ)
    // Where texts begin and end; Error(usage) where the files contradict each other.
    TextEnds ends(const TextEndChoice& choice = {}) const;
    const std::string& hash() const;  // XXH3-64 of the file, 16 hexadecimal digits

  private:
    struct State;
    explicit Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}

    std::shared_ptr<const State> state_;
};

}  // namespace fucina
