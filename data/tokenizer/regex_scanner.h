// The characters of a pattern: reading, escapes and bracketed classes. The parser builds on it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "data/tokenizer/unicode.h"

namespace fucina {

constexpr int kMaxRegexDepth = 40;  // of groups and classes

class RegexScanner {
  protected:
    explicit RegexScanner(std::string_view pattern) : text_(pattern) {}

    [[noreturn]] void refuse(const std::string& what) const;
    bool done() const { return at_ >= text_.size(); }
    bool ahead(std::string_view s) const { return text_.substr(at_, s.size()) == s; }
    bool take(std::string_view s) {
        if (!ahead(s)) return false;
        at_ += s.size();
        return true;
    }
    uint32_t next_code();
    // The inside of [...] after its opening bracket.
    CodeSet bracket(int depth);
    // \d, \p{...} and their like: true and the set. False leaves the escape to escaped_code().
    // \w by itself has a few members of Latin-1 more than in brackets.
    bool class_escape(CodeSet& set, bool in_brackets);
    uint32_t escaped_code();
    // Closes a set under simple case folding; only sets of ASCII characters are supported.
    void fold_case(CodeSet& set) const;

    std::string_view text_;
    size_t at_ = 0;
    bool ignore_case_ = false;

  private:
    void bracket_item(CodeSet& set, int depth);
    uint32_t bracket_end_of_range();
    CodeSet property(bool negate);
    uint32_t hex(size_t digits);
};

}  // namespace fucina
