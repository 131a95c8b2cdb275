// The regular expressions of pre-tokenizers: what they match, and what is refused. Oniguruma,
// through the tokenizers library, is the oracle in tests/oracle/test_tokenizer.py.
#include <gtest/gtest.h>

#include "data/tokenizer/regex.h"
#include "kernels/error.h"
#include "tests/support/expect_text.h"

namespace fucina {
namespace {

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
    std::vector<Span> spans;
    Regex(pattern).find_all(text, spans);
    std::vector<std::string> out;
    for (const Span span : spans) out.emplace_back(text.substr(span.begin, span.end - span.begin));
    return out;
}

using Strings = std::vector<std::string>;

TEST(Regex, MatchesLeftmostAndInOrderOfAlternatives) {
    EXPECT_EQ(matches("a|ab", "abab"), (Strings{"a", "a"}));
    EXPECT_EQ(matches("ab|a", "aba"), (Strings{"ab", "a"}));
    EXPECT_EQ(matches("\\p{N}{1,3}", "x1234567"), (Strings{"123", "456", "7"}));
    EXPECT_EQ(matches("\\s+(?!\\S)|\\s+", "a   b "), (Strings{"  ", " ", " "}));
}

TEST(Regex, BacktracksByWholeCharacters) {
    EXPECT_EQ(matches("\\p{L}+é", "éaéb"), (Strings{"éaé"}));
    EXPECT_EQ(matches("\\p{L}++é", "éaéb"), Strings{});
    EXPECT_EQ(matches("(?>\\p{L}+)é", "éaé"), Strings{});
    EXPECT_EQ(matches("\\p{L}+?é", "aéaé"), (Strings{"aé", "aé"}));
    EXPECT_EQ(matches("(?:ab|a)(?:c|bd)", "abd"), (Strings{"abd"}));
}

TEST(Regex, LooksAround) {
    EXPECT_EQ(matches("(?<=a)b", "abb"), (Strings{"b"}));
    EXPECT_EQ(matches("(?<![ab])b", "abbcb"), (Strings{"b"}));
    EXPECT_EQ(matches("a(?=bc|d)", "abad ac"), (Strings{"a"}));
    EXPECT_EQ(matches("(?<=é中|a)c", "é中c中cac"), (Strings{"c", "c"}));
}

TEST(Regex, KnowsClasses) {
    EXPECT_EQ(matches("[\\p{L}&&[^\\p{Han}]]+", "ab中c"), (Strings{"ab", "c"}));
    EXPECT_EQ(matches("[^\\s\\p{L}\\p{N}]+", "a--1 ."), (Strings{"--", "."}));
    EXPECT_EQ(matches("[a-c\\-\\]x-]+", "a-]xd"), (Strings{"a-]x"}));
    EXPECT_EQ(matches("(?i:'s|'ll)", "'S'ſ'Ll"), (Strings{"'S", "'ſ", "'Ll"}));
    EXPECT_EQ(matches("\\x41\\u4e2d\\x{1F600}", "A中😀"), (Strings{"A中😀"}));
}

TEST(Regex, EmptyMatchesCountOnceBetweenOthers) {
    EXPECT_EQ(matches("a*", "baac"), (Strings{"", "aa", ""}));
    EXPECT_EQ(matches("", "ab"), (Strings{"", "", ""}));
    EXPECT_EQ(matches("^b?", "a\nb\n"), (Strings{"", "b"}));  // not behind the last newline
}

TEST(Regex, FindsWhatIsFarAhead) {
    for (const size_t gap : {15U, 16U, 17U, 47U, 48U, 49U, 5000U, 50'000U}) {
        const std::string text = std::string(gap, 'a') + "b";
        EXPECT_EQ(matches("b", text), (Strings{"b"})) << gap;
        EXPECT_EQ(matches("$", text.substr(0, gap)), (Strings{""})) << gap;
    }
}

TEST(Regex, QuantifiersFollowOneAnother) {
    EXPECT_EQ(matches("a{2}?", "aaab"), (Strings{"aa", "", ""}));
    EXPECT_EQ(matches("(?:ab|c){1}{2}+c?+", "ababccabc"), (Strings{"ababccabc"}));
    EXPECT_EQ(matches("(a|b*)*c", "abbacc"), (Strings{"abbac", "c"}));
    EXPECT_EQ(matches("a(?i)b|C", "aBacAB"), (Strings{"aB", "ac"}));
}

TEST(Regex, RefusesWhatItDoesNotKnow) {
    for (const char* pattern :
         {"(",       ")",           "a)",      "[",           "[]",      "[a",       "a**?(",
          "*a",      "(?<=a*)c",    "\\1",     "\\p{Foo}",    "\\p{L",   "[z-a]",    "a{2,1}",
          "a{1001}", "(?i:é)",      "(?i:ss)", "[[:alpha:]]", "\\",      "(?P<x>a)", "\\b",
          "(?i",     "\\x{110000}", "\\xff",   "(?=a)+",      "[a-\\d]", "^*"}) {
        EXPECT_THROW(Regex{pattern}, Error) << pattern;
    }
    try {
        Regex("ab\\p{Latin2}");
        FAIL();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::data);
        EXPECT_CONTAINS(std::string(error.what()),
                        "unknown property in \\p{...} at byte 5 of the pattern");
    }
}

TEST(Regex, HostilePatternsEndSoon) {
    const std::string deep = std::string(100'000, '(') + "a" + std::string(100'000, ')');
    EXPECT_THROW(Regex{deep}, Error);
    EXPECT_THROW(Regex{std::string(100'000, '[')}, Error);
    std::string counts = "a";
    for (int i = 0; i < 30; ++i) counts += "{1000}";
    EXPECT_THROW(Regex{counts}, Error);
    EXPECT_THROW(Regex{"(){1000}{1000}{1000}{1000}{1000}"}, Error);
    std::string many;
    for (int i = 0; i < 1000; ++i) many += "\\x{" + std::to_string(1000 + i) + "}";
    EXPECT_THROW(Regex{many}, Error);
    // Exponential backtracking stops with an error, also where each beginning alone takes little.
    std::vector<Span> spans;
    EXPECT_THROW(Regex("(?:a|a)+b").find_all(std::string(60, 'a') + "cb", spans), Error);
    EXPECT_THROW(Regex("(?:a|a){18}b").find_all(std::string(10'000, 'a') + "cb", spans), Error);
    EXPECT_THROW(Regex(".{0,999}.{0,999}b").find_all(std::string(10'000, 'a') + "\nb", spans),
                 Error);
    // What backtracks much and yet in proportion to the text does not.
    spans.clear();
    Regex("(?:a|b)*c|\\s*\\n").find_all(std::string(100'000, ' ') + "\nac", spans);
    EXPECT_EQ(spans.size(), 2U);
}

}  // namespace
}  // namespace fucina
