#include "data/json.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/file.h"

namespace fucina {
namespace {

void append_utf8(uint32_t c, std::string& out) {
    const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
    const auto tail = [&](int shift) { put(0x80 | (c >> shift & 0x3f)); };
    if (c < 0x80) {
        put(c);
    } else if (c < 0x800) {
        put(0xc0 | c >> 6);
        tail(0);
    } else if (c < 0x10000) {
        put(0xe0 | c >> 12);
        tail(6);
        tail(0);
    } else {
        put(0xf0 | c >> 18);
        tail(12);
        tail(6);
        tail(0);
    }
}

// Recursive descent; at_ is the byte that comes next.
template <class json>
class JsonParser {
  public:
    JsonParser(std::string_view text, const std::string& name, ExitCode code)
        : text_(text), name_(name), code_(code) {}

    json parse() {
        take("\xef\xbb\xbf");
        json root = value(0);
        if (!at_end()) refuse("something follows the value");
        return root;
    }

  private:
    [[noreturn]] void refuse(std::string_view reason) const {
        const std::string_view before = text_.substr(0, at_);
        const size_t line_start = before.rfind('\n') + 1;  // npos + 1 = 0
        fail(code_, name_, ":", 1 + std::count(before.begin(), before.end(), '\n'), ":",
             before.size() - line_start + 1,
             ": not valid JSON: ", at_ == text_.size() ? "it ends too early, " : "", reason);
    }

    char next() const { return at_ < text_.size() ? text_[at_] : '\0'; }
    bool take(std::string_view word) {
        if (!text_.substr(at_).starts_with(word)) return false;
        at_ += word.size();
        return true;
    }
    void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }
    bool at_end() {
        skip_space();
        return at_ == text_.size();
    }

    json value(int depth) {
        skip_space();
        const char c = next();
        if (c == '{') return object(depth);
        if (c == '[') return list(depth);
        if (c == '"') return string();
        if (take("null")) return nullptr;
        if (take("true")) return true;
        if (take("false")) return false;
        constexpr double kInfinity = std::numeric_limits<double>::infinity();
        if (take("NaN")) return std::numeric_limits<double>::quiet_NaN();
        if (take("Infinity")) return kInfinity;
        if (take("-Infinity")) return -kInfinity;
        if (c == '-' || (c >= '0' && c <= '9')) return number();
        refuse(c == '\'' ? "strings have double quotes" : "a value is expected");
    }

    void open(int depth) {
        if (depth == kJsonDepth) refuse(concat("nested deeper than ", kJsonDepth, " levels"));
        ++at_;
        skip_space();
    }

    // After an element: true if another one follows the comma.
    bool another(char close) {
        skip_space();
        if (next() == close) {
            ++at_;
            return false;
        }
        if (!take(",")) refuse(concat("a comma or ", close, " is expected"));
        skip_space();
        if (next() == close) refuse("a comma before the end");
        return true;
    }

    json object(int depth) {
        typename json::object_t members;
        open(depth);
        if (take("}")) return members;
        do {
            if (next() != '"') refuse("a key in double quotes is expected");
            std::string key = string();
            skip_space();
            if (!take(":")) refuse("a colon is expected");
            members[std::move(key)] = value(depth + 1);
        } while (another('}'));
        return members;
    }

    json list(int depth) {
        typename json::array_t items;
        open(depth);
        if (take("]")) return items;
        do items.push_back(value(depth + 1));
        while (another(']'));
        return items;
    }

    void digits() {
        if (next() < '0' || next() > '9') refuse("a digit is expected");
        at_ = std::min(text_.find_first_not_of("0123456789", at_), text_.size());
    }

    json number() {
        const size_t begin = at_;
        take("-");
        const bool zero = next() == '0';
        digits();
        if (zero && at_ - begin > (text_[begin] == '-' ? 2u : 1u)) {
            at_ = begin;
            refuse("a number that begins with 0");
        }
        bool whole = true;
        if (take(".")) {
            whole = false;
            digits();
        }
        if (take("e") || take("E")) {
            whole = false;
            if (!take("+")) take("-");
            digits();
        }
        const std::string literal(text_.substr(begin, at_ - begin));
        const char *first = literal.data(), *last = first + literal.size();
        int64_t small = 0;
        uint64_t large = 0;
        if (whole && std::from_chars(first, last, large).ec == std::errc()) return large;
        if (whole && std::from_chars(first, last, small).ec == std::errc()) return small;
        return std::strtod(first, nullptr);  // overflows to infinity
    }

    std::string string() {
        std::string out;
        ++at_;
        while (next() != '"') {
            if (at_ == text_.size()) refuse("inside a string");
            const auto byte = static_cast<unsigned char>(next());
            if (byte < 0x20) refuse("a control character inside a string");
            if (byte == '\\')
                escape(out);
            else if (byte < 0x80)
                plain(out);
            else
                wide(byte, out);
        }
        ++at_;
        return out;
    }

    void plain(std::string& out) {
        const size_t begin = at_;
        while (at_ < text_.size() && next() >= 0x20 && next() != '"' && next() != '\\') ++at_;
        out.append(text_.substr(begin, at_ - begin));
    }

    void wide(unsigned char lead, std::string& out) {
        const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        const std::string_view bytes = text_.substr(at_, length);
        if (!simdjson::validate_utf8(bytes.data(), bytes.size()))
            refuse("bytes that are not UTF-8");
        out.append(bytes);
        at_ += bytes.size();
    }

    void escape(std::string& out) {
        constexpr std::string_view letters = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
        ++at_;
        if (take("u")) {
            append_utf8(code_point(), out);
            return;
        }
        const size_t letter = letters.find(next());
        if (at_ == text_.size() || letter == letters.npos) refuse("an unknown escape in a string");
        out.push_back(meant[letter]);
        ++at_;
    }

    uint32_t code_point() {
        const uint32_t unit = hex();
        if (unit < 0xd800 || unit > 0xdfff) return unit;
        if (unit > 0xdbff || !take("\\u")) refuse("half of a surrogate pair");
        const uint32_t low = hex();
        if (low < 0xdc00 || low > 0xdfff) refuse("half of a surrogate pair");
        return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
    }

    uint32_t hex() {
        const std::string_view four = text_.substr(at_, 4);
        uint32_t unit = 0;
        const auto [end, error] = std::from_chars(four.data(), four.data() + four.size(), unit, 16);
        if (error != std::errc() || end != four.data() + 4)
            refuse("four hexadecimal digits are expected");
        at_ += 4;
        return unit;
    }

    std::string_view text_;
    const std::string& name_;
    ExitCode code_;
    size_t at_ = 0;
};

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& name, ExitCode code) {
    return JsonParser<nlohmann::json>(text, name, code).parse();
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& name,
                                          ExitCode code) {
    return JsonParser<nlohmann::ordered_json>(text, name, code).parse();
}

nlohmann::json read_json_file(const std::filesystem::path& path, int64_t largest, ExitCode code) {
    return parse_json(read_text_file(path, largest), path.string(), code);
}

}  // namespace fucina
