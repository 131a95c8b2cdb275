// Unicode as the Hugging Face tokenizers library knows it (version 16): sets of code points by
// general category or script, and UTF-8 reading and repair.
#pragma once
#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fucina {

constexpr uint32_t kCodePoints = 0x110000;

// A set of code points as one bit each (136 KB): a membership test is one load, all set algebra is
// a loop over words.
class CodeSet {
  public:
    CodeSet() : words_(kCodePoints / 64) {}

    bool contains(uint32_t code) const { return words_[code >> 6] >> (code & 63) & 1; }
    bool empty() const;
    void add(uint32_t first, uint32_t last);  // inclusive
    void add(uint32_t code) { add(code, code); }
    void unite(const CodeSet& other);
    void intersect(const CodeSet& other);
    void complement();
    bool operator==(const CodeSet& other) const = default;
    template <class Take>
    void for_each(Take take) const {
        for (size_t i = 0; i < words_.size(); ++i)
            for (uint64_t left = words_[i]; left != 0; left &= left - 1)
                take(static_cast<uint32_t>(i * 64 + static_cast<size_t>(std::countr_zero(left))));
    }

  private:
    std::vector<uint64_t> words_;
};

// A property in the spelling of \p{...}: a general category ("L", "Lu") or one of the scripts Han,
// Hiragana, Katakana, Hangul. Empty if unknown.
std::optional<CodeSet> property_set(std::string_view name);

CodeSet space_set();                 // \s: White_Space
CodeSet word_set(bool in_brackets);  // \w as the pre-tokenizers' regex engine has it
CodeSet word_edge_set();             // \w as `single_word` added tokens have it
CodeSet numeric_set();  // what the Digits pre-tokenizer calls a digit: \p{N} of Unicode 17

// The code point at `at` of valid UTF-8, and its length in bytes through `length`.
inline uint32_t decode_utf8(std::string_view text, size_t at, size_t& length) {
    const auto byte = [&](size_t i) {
        return static_cast<uint32_t>(static_cast<uint8_t>(text[at + i]));
    };
    const uint32_t lead = byte(0);
    if (lead < 0x80) return length = 1, lead;
    if (lead < 0xE0) return length = 2, (lead & 31) << 6 | (byte(1) & 63);
    if (lead < 0xF0) return length = 3, (lead & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63);
    return length = 4,
           (lead & 7) << 18 | (byte(1) & 63) << 12 | (byte(2) & 63) << 6 | (byte(3) & 63);
}

// Start of the code point that ends before `at` (at > 0) in valid UTF-8.
inline size_t previous_utf8(std::string_view text, size_t at) {
    do --at;
    while ((static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
    return at;
}

void append_utf8(std::string& out, uint32_t code);
bool is_valid_utf8(std::string_view text);
// Each maximal part of an ill-formed sequence becomes one U+FFFD (Unicode §3.9, as Python's
// errors="replace").
std::string repair_utf8(std::string_view text);

}  // namespace fucina
