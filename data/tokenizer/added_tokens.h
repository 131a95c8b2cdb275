// Tokens that are cut out of a text before anything else sees it (chat markers, end of text, ...).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/unicode.h"

namespace fucina {

struct AddedToken {
    std::string content;
    int32_t id = -1;
    bool special = false;
    bool single_word = false;  // not next to a letter or digit
    bool lstrip = false;       // takes the white space on its left with it
    bool rstrip = false;
    bool normalized = true;  // looked for in the normalized text
};

// A stretch of text, or, if id >= 0, an added token.
struct TextPiece {
    std::string_view text;
    int32_t id = -1;
};

// Finds tokens leftmost-longest, as the tokenizers library does, in one pass with a trie of bytes.
class AddedTokenFinder {
  public:
    static constexpr size_t kMaxLength = 4096;

    AddedTokenFinder();
    // `pattern`: what to look for, at most kMaxLength bytes, not empty. False if it is already
    // there.
    bool add(const AddedToken& token, std::string_view pattern);
    // Appends the pieces of `text` (valid UTF-8) in order.
    void split(std::string_view text, std::vector<TextPiece>& pieces) const;

  private:
    const AddedToken* longest_at(std::string_view text, size_t at, size_t& length) const;
    bool stands_alone(std::string_view text, size_t begin, size_t end) const;

    std::vector<AddedToken> tokens_;
    std::array<int32_t, 256> roots_;               // first byte -> node
    std::unordered_map<uint64_t, int32_t> edges_;  // node << 8 | byte -> node
    std::vector<int32_t> token_at_;                // node -> index in tokens_, or -1
};

}  // namespace fucina
