// Cuts a text into the words that are merged one by one: a chain of splits, the last one ByteLevel.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "data/tokenizer/regex.h"

namespace fucina {

// What becomes of the matches that separate: HF's SplitDelimiterBehavior.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

struct SplitRule {
    Regex pattern;
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;  // the text between the matches separates

    // Appends the pieces of text[piece] that remain, never empty.
    void apply(std::string_view text, Span piece, std::vector<Span>& out) const;
};

class PreTokenizer {
  public:
    struct ByteLevel {
        bool add_prefix_space = false;
        std::optional<SplitRule> words;  // GPT-2's pattern if use_regex
    };

    void append(SplitRule rule) { rules_.push_back(std::move(rule)); }
    size_t size() const { return rules_.size(); }
    void set_byte_level(ByteLevel byte_level) { byte_level_ = std::move(byte_level); }

    // Hands every word of `text` (valid UTF-8) to `word`, in order.
    void split(std::string_view text, const std::function<void(std::string_view)>& word) const;

    static constexpr std::string_view kGpt2Pattern =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

  private:
    std::vector<SplitRule> rules_;
    ByteLevel byte_level_;
};

}  // namespace fucina
