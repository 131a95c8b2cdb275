#include <algorithm>
#include <charconv>

#include "data/file.h"
#include "data/template/syntax.h"
#include "data/tokenizer/unicode.h"

namespace fucina {
namespace {

bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

class Lexer {
  public:
    explicit Lexer(std::string_view source) : source_(source) {}

    std::vector<TemplateToken> read() {
        while (at_ < source_.size()) {
            const size_t open = find_open();
            add_data(open);
            if (at_ < source_.size()) source_[at_ + 1] == '#' ? pass_comment() : read_tag();
        }
        push(TemplateToken::last, "", at_);
        return std::move(tokens_);
    }

  private:
    template <class... Parts>
    [[noreturn]] static void refuse(size_t at, const Parts&... what) {
        throw TemplateProblem{concat(what...), at};
    }

    void push(TemplateToken::Kind kind, std::string_view text, size_t at) {
        tokens_.push_back({.kind = kind, .text = std::string(text), .place = at});
    }

    size_t find_open() const {
        for (size_t at = at_; (at = source_.find('{', at)) != std::string::npos; ++at)
            if (at + 1 < source_.size() &&
                std::string_view("{%#").find(source_[at + 1]) != std::string_view::npos)
                return at;
        return source_.size();
    }

    // What lies before the tag at `open`, without the white space that the tag takes.
    void add_data(size_t open) {
        std::string_view data = source_.substr(at_, open - at_);
        const size_t begin = std::exchange(at_, open);
        if (open < source_.size()) {
            const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
            if (sign == '-')
                data = data.substr(0, strip(data, nullptr, false, true).size());
            else if (sign != '+' && source_[open + 1] != '{')
                data = without_indent(data, begin);
        }
        if (!data.empty()) push(TemplateToken::data, data, begin);
    }

    // lstrip_blocks: a tag alone at the beginning of a line takes what is before it there.
    std::string_view without_indent(std::string_view data, size_t begin) const {
        const size_t line = data.rfind('\n') + 1;  // npos + 1 = 0
        const bool starts = line > 0 || begin == 0 || source_[begin - 1] == '\n';
        const bool blank = strip(data.substr(line), nullptr, true, false).empty();
        return starts && blank ? data.substr(0, line) : data;
    }

    // Passes over the end of a tag, and over the white space behind it that it takes.
    void pass_end(size_t size, bool trims, bool is_block) {
        at_ += size;
        size_t length = 0;
        if (trims)
            while (at_ < source_.size() && is_space_at(source_, at_, length)) at_ += length;
        else if (is_block && source_[at_ - size] != '+' && at_ < source_.size() &&
                 source_[at_] == '\n')
            ++at_;
    }

    void pass_comment() {
        const size_t end = source_.find("#}", at_ + 2);
        if (end == std::string::npos) refuse(at_, "a comment {# without its end #}");
        const size_t open = at_;
        const bool signed_end =
            end > open + 2 && (source_[end - 1] == '-' || source_[end - 1] == '+');
        at_ = end - (signed_end ? 1 : 0);
        pass_end(signed_end ? 3 : 2, source_[at_] == '-', true);
    }

    void read_tag() {
        const bool is_block = source_[at_ + 1] == '%';
        const size_t open = at_;
        const std::string_view close = is_block ? "%}" : "}}";
        push(TemplateToken::begin, is_block ? "{%" : "{{", at_);
        at_ += 2;
        if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) ++at_;
        int depth = 0;  // of brackets
        for (;;) {
            size_t length = 0;
            while (at_ < source_.size() && is_space_at(source_, at_, length)) at_ += length;
            if (at_ >= source_.size()) refuse(open, "a tag without its end ", close);
            const std::string_view rest = source_.substr(at_);
            const bool has_sign = rest[0] == '-' || (is_block && rest[0] == '+');
            if (depth == 0 && rest.substr(has_sign ? 1 : 0).starts_with(close)) {
                push(TemplateToken::end, close, at_);
                return pass_end(has_sign ? 3 : 2, rest[0] == '-', is_block);
            }
            if (std::string_view("([{").find(rest[0]) != std::string_view::npos) ++depth;
            if (std::string_view(")]}").find(rest[0]) != std::string_view::npos) --depth;
            read_token(rest);
        }
    }

    void read_token(std::string_view rest) {
        const size_t start = at_;
        if (rest[0] == '"' || rest[0] == '\'') return read_string(rest[0]);
        if (is_letter(rest[0])) {
            while (at_ < source_.size() && (is_letter(source_[at_]) || is_digit(source_[at_])))
                ++at_;
            return push(TemplateToken::name, source_.substr(start, at_ - start), start);
        }
        if (is_digit(rest[0])) return read_number(rest);
        constexpr std::string_view kTwo[] = {"==", "!=", "<=", ">=", "//", "**"};
        const bool two = std::ranges::find(kTwo, rest.substr(0, 2)) != std::end(kTwo);
        if (!two && std::string_view("+-/*%~[](){}<>.:|,=").find(rest[0]) == std::string_view::npos)
            refuse(at_, "the character `", printable(rest.substr(0, 1)), "` stands where none can");
        at_ += two ? 2 : 1;
        push(TemplateToken::symbol, source_.substr(start, at_ - start), start);
    }

    void read_number(std::string_view rest) {
        const auto digits_end = [&](size_t at) {
            while (at < rest.size() && is_digit(rest[at])) ++at;
            return at;
        };
        size_t size = digits_end(0);
        const size_t fraction = rest.substr(size).starts_with('.') ? digits_end(size + 1) : 0;
        const bool floating = fraction > size + 1;
        if (floating) size = fraction;
        if (size < rest.size() && is_letter(rest[size]))
            refuse(at_, "numbers are digits, with or without a point");
        push(floating ? TemplateToken::floating : TemplateToken::integer, rest.substr(0, size),
             at_);
        at_ += size;
    }

    void read_string(char quote) {
        const size_t open = at_++;
        std::string text;
        for (;;) {
            if (at_ >= source_.size()) refuse(open, "a string without its end");
            const char c = source_[at_++];
            if (c == quote) break;
            if (c != '\\')
                text += c;
            else
                read_escape(open, text);
        }
        push(TemplateToken::string, text, open);
    }

    // Python's escapes; another letter behind the backslash leaves both.
    void read_escape(size_t open, std::string& text) {
        if (at_ >= source_.size()) refuse(open, "a string without its end");
        constexpr std::string_view kLetters = "\\'\"abfnrtv\n", kMeanings = "\\'\"\a\b\f\n\r\t\v";
        const char c = source_[at_++];
        if (const size_t known = kLetters.find(c); known != kLetters.npos) {
            if (known < kMeanings.size()) text += kMeanings[known];
            return;
        }
        const size_t size = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (size == 0) {
            if (is_digit(c) || c == 'N') refuse(at_ - 2, "the escape \\", c, " is not supported");
            text += {'\\', c};
            return;
        }
        uint32_t code = 0;
        const char* first = source_.data() + at_;
        const auto found =
            std::from_chars(first, first + std::min(size, source_.size() - at_), code, 16);
        if (found.ptr != first + size || code >= kCodePoints || (code >= 0xd800 && code < 0xe000))
            refuse(at_ - 2, "the escape \\", c, " wants ", size,
                   " hexadecimal digits of a character");
        append_utf8(text, code);
        at_ += size;
    }

    const std::string_view source_;
    size_t at_ = 0;
    std::vector<TemplateToken> tokens_;
};

}  // namespace

std::vector<TemplateToken> read_tokens(std::string_view source) {
    return Lexer(source).read();
}

}  // namespace fucina
