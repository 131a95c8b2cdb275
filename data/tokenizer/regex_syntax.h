// A pattern between its parser and PCRE2.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/unicode.h"

namespace fucina {

constexpr size_t kMaxRegexSets = 100;
constexpr uint8_t kFirstRegexSet = 0x80;

// A pattern in PCRE2's syntax, where the byte kFirstRegexSet + i stands for one character of
// sets[i]; all else is ASCII.
struct RegexSource {
    std::string pattern;
    std::vector<CodeSet> sets;  // without duplicates, at most kMaxRegexSets
};

// Throws Error(ExitCode::data) with "what at byte N of the pattern".
RegexSource parse_regex(std::string_view pattern);

}  // namespace fucina
