// The regular expressions of pre-tokenizers, with the meaning that Oniguruma's Ruby syntax gives
// them (the engine of the Hugging Face tokenizers library), run by PCRE2. What the translation does
// not know, such as back references, is an error when compiling, never a different match.
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "data/tokenizer/unicode.h"

namespace fucina {

struct Span {
    uint32_t begin, end;  // bytes
};

struct RegexSource;

class Regex {
  public:
    // Throws Error(ExitCode::data) with "what at byte N of the pattern".
    explicit Regex(std::string_view pattern);
    static Regex literal(std::string_view text);  // matches exactly this non-empty text
    static Regex of_set(CodeSet set);             // matches one code point of the set

    // All matches from left to right, as the tokenizers library iterates; `text` is valid UTF-8 of
    // less than 4 GB. Throws Error(ExitCode::data) if the pattern backtracks without reasonable
    // bound. Any number of threads may search at once.
    void find_all(std::string_view text, std::vector<Span>& matches) const;

  private:
    explicit Regex(const RegexSource& source);

    struct Program;
    std::shared_ptr<const Program> program_;
};

}  // namespace fucina
