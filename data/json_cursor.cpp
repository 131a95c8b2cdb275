#include "data/json_cursor.h"

#include <simdjson.h>

#include <algorithm>

#include "data/file.h"
#include "data/json.h"
#include "data/tokenizer/unicode.h"

namespace fucina {

JsonCursor::JsonCursor(std::string_view text, std::string name, ExitCode code)
    : text_(text), name_(std::move(name)), code_(code) {
    take("\xef\xbb\xbf");
}

void JsonCursor::refuse(std::string_view reason) const {
    const std::string_view before = text_.substr(0, at_);
    const size_t line_start = before.rfind('\n') + 1;  // npos + 1 = 0
    fail(code_, name_, ":", 1 + std::count(before.begin(), before.end(), '\n'), ":",
         before.size() - line_start + 1, ": not valid JSON: ",
         at_ == text_.size() ? "it ends too early, "
         : next() == '\0'    ? "a zero byte, "
                             : "",
         reason);
}

bool JsonCursor::take(std::string_view word) {
    if (!ahead(word)) return false;
    at_ += word.size();
    return true;
}

void JsonCursor::skip_space() {
    at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size());
}

JsonKind JsonCursor::kind() {
    skip_space();
    const char c = next();
    if (c == '{') return JsonKind::object;
    if (c == '[') return JsonKind::list;
    if (c == '"') return JsonKind::string;
    if (c == '-' || (c >= '0' && c <= '9') || ahead("NaN") || ahead("Infinity"))
        return JsonKind::number;
    if (ahead("null")) return JsonKind::null;
    if (ahead("true") || ahead("false")) return JsonKind::boolean;
    refuse(c == '\'' ? "strings have double quotes" : "a value is expected");
}

std::string JsonCursor::describe() {
    switch (kind()) {
        case JsonKind::null:
            return null(), "null";
        case JsonKind::boolean:
            return boolean(), "a boolean";
        case JsonKind::string:
            return "the string \"" + printable(string()) + "\"";
        case JsonKind::list:
            return "a list";
        case JsonKind::object:
            return "an object";
        default:
            break;
    }
    const std::string_view literal = number();
    if (number_in<uint64_t>(literal)) return "a number";
    return number_in<int64_t>(literal) ? "a negative number" : "the number " + printable(literal);
}

void JsonCursor::end() {
    skip_space();
    if (at_ < text_.size()) refuse("something follows the value");
}

bool JsonCursor::boolean() {
    const bool value = take("true");
    if (!value) take("false");
    return value;
}

std::string_view JsonCursor::number() {
    const size_t begin = at_;
    if (!take("NaN") && !take("Infinity") && !take("-Infinity")) {
        take("-");
        const size_t first = at_;
        digits();
        if (text_[first] == '0' && at_ - first > 1) {
            at_ = begin;
            refuse("a number that begins with 0");
        }
        if (take(".")) digits();
        if (take("e") || take("E")) {
            if (!take("+")) take("-");
            digits();
        }
    }
    return text_.substr(begin, at_ - begin);
}

void JsonCursor::digits() {
    if (next() < '0' || next() > '9') refuse("a digit is expected");
    at_ = std::min(text_.find_first_not_of("0123456789", at_), text_.size());
}

bool JsonCursor::open(char close) {
    if (depth_ == kJsonDepth) refuse(concat("nested deeper than ", kJsonDepth, " levels"));
    ++at_;
    ++depth_;
    skip_space();
    if (!take({&close, 1})) return true;
    --depth_;
    return false;
}

bool JsonCursor::another(char close) {
    skip_space();
    if (take({&close, 1})) return --depth_, false;
    if (!take(",")) refuse(concat("a comma or ", close, " is expected"));
    skip_space();
    if (next() == close) refuse("a comma before the end");
    return true;
}

std::string JsonCursor::key() {
    if (next() != '"') refuse("a key in double quotes is expected");
    std::string name = string();
    skip_space();
    if (!take(":")) refuse("a colon is expected");
    return name;
}

void JsonCursor::skip() {
    switch (kind()) {
        case JsonKind::object:
            return object([&](const std::string&) { skip(); });
        case JsonKind::list:
            return list([&] { skip(); });
        default:
            describe();
    }
}

std::string JsonCursor::string() {
    std::string out;
    ++at_;
    while (!take("\"")) {
        if (at_ == text_.size()) refuse("inside a string");
        character(out);
    }
    return out;
}

void JsonCursor::character(std::string& out) {
    const auto byte = static_cast<unsigned char>(next());
    if (byte < 0x20) refuse("a control character inside a string");
    if (byte == '\\') return escape(out);
    const size_t begin = at_;
    if (byte < 0x80) {
        while (next() >= 0x20 && next() != '"' && next() != '\\') ++at_;
    } else {
        at_ = std::min(begin + (byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4), text_.size());
        if (!simdjson::validate_utf8(text_.data() + begin, at_ - begin)) {
            at_ = begin;
            refuse("bytes that are not UTF-8");
        }
    }
    out.append(text_.substr(begin, at_ - begin));
}

void JsonCursor::escape(std::string& out) {
    constexpr std::string_view letters = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
    ++at_;
    if (take("u")) return append_utf8(out, code_point());
    const size_t letter = letters.find(next());
    if (at_ == text_.size() || letter == letters.npos) refuse("an unknown escape in a string");
    out.push_back(meant[letter]);
    ++at_;
}

uint32_t JsonCursor::code_point() {
    const uint32_t unit = hex();
    if (unit < 0xd800 || unit > 0xdfff) return unit;
    const uint32_t low = unit <= 0xdbff && take("\\u") ? hex() : 0;
    if (low < 0xdc00 || low > 0xdfff) refuse("half of a surrogate pair");
    return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
}

uint32_t JsonCursor::hex() {
    const std::string_view four = text_.substr(at_, 4);
    uint32_t unit = 0;
    const auto [end, error] = std::from_chars(four.data(), four.data() + four.size(), unit, 16);
    if (error != std::errc() || end != four.data() + 4)
        refuse("four hexadecimal digits are expected");
    at_ += 4;
    return unit;
}

}  // namespace fucina
