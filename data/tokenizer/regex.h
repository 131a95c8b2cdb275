// The regular expressions of pre-tokenizers, with the meaning that Oniguruma's Ruby syntax gives
// them (the engine of the Hugging Face tokenizers library): a backtracking matcher over sets of
// code points. What it does not know, such as back references, is an error when compiling, never a
// different match.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer/unicode.h"

namespace fucina {

struct Span {
    uint32_t begin, end;  // bytes
};

// One step of a compiled pattern. Branching steps name another step by index.
struct RegexStep {
    enum Op : uint8_t {
        set,   // one code point of sets[a]
        loop,  // min to max code points of sets[a], as many as possible, then backtrack one by one
        atomic_loop,  // the same without backtracking
        split,        // try step a, then step b
        jump,         // go on at step a
        atomic,  // match the steps from the next on to `accept` as a whole; then go on at step a
        look_ahead,  // the steps from the next on must match here, or must not if `negate`; then go
                     // on at step a
        look_behind,  // the code point before must be, or must not be, of sets[a]
        text_begin,
        text_end,
        line_begin,
        line_end,
        accept,
    };
    Op op;
    bool negate = false;
    int32_t a = 0, b = 0;
    uint32_t min = 0, max = 0;
};

class Regex {
  public:
    // Throws Error(ExitCode::data) with "what at character N of the pattern".
    explicit Regex(std::string_view pattern);
    static Regex literal(std::string_view text);  // matches exactly this non-empty text
    static Regex of_set(CodeSet set);             // matches one code point of the set

    // All matches from left to right, as the tokenizers library iterates; `text` is valid UTF-8 of
    // less than 4 GB. Throws Error(ExitCode::data) if the pattern backtracks without reasonable
    // bound.
    void find_all(std::string_view text, std::vector<Span>& matches) const;

  private:
    friend class RegexCompiler;
    Regex() = default;

    std::vector<CodeSet> sets_;
    std::vector<RegexStep> steps_;
    CodeSet first_;        // code points a match can begin with
    bool filter_ = false;  // whether first_ says something: no match is empty
};

}  // namespace fucina
