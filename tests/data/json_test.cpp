// The reader of whole JSON files: what Python's json module takes, with its values; what it does
// not take, with line and column.
#include "data/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/support/expect_text.h"

namespace fucina {
namespace {

nlohmann::json read(const std::string& text) {
    return parse_json(text, "f.json", ExitCode::usage);
}

std::string refusal(const std::string& text) {
    try {
        read(text);
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::usage);
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
        return error.what();
    }
    return "read";
}

TEST(Json, NumbersOfAnySizeAndWhatPythonCallsNumbers) {
    const nlohmann::json list = read(
        "[0, -0, 18446744073709551615, -9223372036854775808, 18446744073709551616, 1e400, "
        "-1e400, 1e-400, 0.1, 1E+2, NaN, Infinity, -Infinity, 123456789012345678901234567890]");
    EXPECT_TRUE(list[0].is_number_unsigned());
    EXPECT_EQ(list[2].get<uint64_t>(), UINT64_MAX);
    EXPECT_EQ(list[3].get<int64_t>(), INT64_MIN);
    EXPECT_EQ(list[4], 18446744073709551616.0);
    EXPECT_EQ(list[5], HUGE_VAL);
    EXPECT_EQ(list[6], -HUGE_VAL);
    EXPECT_EQ(list[7], 0.0);
    EXPECT_EQ(list[8], 0.1);
    EXPECT_EQ(list[9], 100.0);
    EXPECT_TRUE(std::isnan(list[10].get<double>()));
    EXPECT_EQ(list[11], HUGE_VAL);
    EXPECT_EQ(list[12], -HUGE_VAL);
    EXPECT_EQ(list[13], 123456789012345678901234567890.0);
}

TEST(Json, OfAKeyGivenTwiceTheLastAndNoByteOrderMark) {
    EXPECT_EQ(read("\xef\xbb\xbf{\"a\": 1, \"b\": {}, \"a\": [2]}\n").dump(),
              R"({"a":[2],"b":{}})");
    EXPECT_EQ(read("\t\r\n null ").dump(), "null");
}

TEST(Json, StringsAreUtf8) {
    EXPECT_EQ(read(R"("\u00e9\ud83d\ude00\u0000\"\\\/\b\f\n\r\t")"),
              std::string("\u00e9\U0001f600\0\"\\/\b\f\n\r\t", 15));
    EXPECT_EQ(read("\"\u00e9\u20ac\U0001f600\x7f\""), "\u00e9\u20ac\U0001f600\x7f");
    for (const char* bad :
         {"\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xe2\x82\"", "\"\xc3\""})
        EXPECT_CONTAINS(refusal(bad), "f.json:1:2: not valid JSON: bytes that are not UTF-8");
    for (const char* half : {R"("\ud800")", R"("\udc00")", R"("\ud800\u0041")", R"("\ud800x")"})
        EXPECT_CONTAINS(refusal(half), "half of a surrogate pair");
}

TEST(Json, WhatIsNotJsonIsNamedWithItsPlace) {
    const std::pair<std::string, std::string> cases[] = {
        {"", "f.json:1:1: not valid JSON: it ends too early, a value is expected"},
        {"{\n \"a\": 1]", "f.json:2:8: not valid JSON: a comma or } is expected"},
        {"[1, 2", "f.json:1:6: not valid JSON: it ends too early, a comma or ]"},
        {"{'a': 1}", "f.json:1:2: not valid JSON: a key in double quotes is expected"},
        {"['a']", "f.json:1:2: not valid JSON: strings have double quotes"},
        {"[1,\n]", "f.json:2:1: not valid JSON: a comma before the end"},
        {"{\"a\":1,}", "a comma before the end"},
        {"{\"a\" 1}", "f.json:1:6: not valid JSON: a colon is expected"},
        {"[01]", "f.json:1:2: not valid JSON: a number that begins with 0"},
        {"[-01]", "a number that begins with 0"},
        {"[1.]", "f.json:1:4: not valid JSON: a digit is expected"},
        {"[-]", "a digit is expected"},
        {"[1e]", "a digit is expected"},
        {"[+1]", "a value is expected"},
        {"[.5]", "a value is expected"},
        {"[nan]", "a value is expected"},
        {"[truE]", "a value is expected"},
        {"1 2", "f.json:1:3: not valid JSON: something follows the value"},
        {std::string("{}\0", 3), "f.json:1:3: not valid JSON: a zero byte, something follows"},
        {"\"a", "it ends too early, inside a string"},
        {"\"a\nb\"", "f.json:1:3: not valid JSON: a control character inside a string"},
        {R"("\x")", "an unknown escape"},
        {R"("\u12g4")", "four hexadecimal digits"},
        {R"("\u-123")", "four hexadecimal digits"},
        {"\"\\", "it ends too early, an unknown escape"},
        {"/* */ 1", "a value is expected"},
        {std::string(65, '['), "f.json:1:65: not valid JSON: nested deeper than 64 levels"},
        {std::string(1 << 20, '['), "nested deeper"},
    };
    for (const auto& [text, message] : cases) EXPECT_CONTAINS(refusal(text), message);
    EXPECT_EQ(refusal(std::string(64, '[') + std::string(64, ']')), "read");
    std::string beside = "[";  // levels that were left do not count
    for (int i = 0; i < 100; ++i) beside += R"([1],{"a":1},)";
    EXPECT_EQ(refusal(beside + "[]]"), "read");
}

// Every prefix and every changed byte is read or refused; what nlohmann's strict parser reads is
// read to the same value.
TEST(Json, MutantsAreReadAsAnotherParserReadsThem) {
    const std::string good =
        R"({"a":[1,-2.5e3,true,false,null,{"b":"x\u00e9\"\n"},[]],"c":{},"d":1234567890123,"":"é"})";
    EXPECT_EQ(read(good), nlohmann::json::parse(good));
    const auto compare = [](const std::string& text) {
        const nlohmann::json other = nlohmann::json::parse(text, nullptr, false);
        try {
            const nlohmann::json ours = read(text);
            if (!other.is_discarded()) {
                EXPECT_EQ(ours, other) << text;
            }
        } catch (const Error&) {
            EXPECT_TRUE(other.is_discarded()) << text;
        }
    };
    for (size_t at = 0; at < good.size(); ++at) {
        compare(good.substr(0, at));
        for (int byte = 1; byte < 256; ++byte) {
            std::string mutant = good;
            mutant[at] = static_cast<char>(byte);
            compare(mutant);
        }
    }
}

}  // namespace
}  // namespace fucina
