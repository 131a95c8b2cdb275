// Escapes and bracketed classes of a pattern, with nested classes and intersections (&&).
#include "data/tokenizer/regex_scanner.h"

#include "kernels/error.h"

namespace fucina {

void RegexScanner::refuse(const std::string& what) const {
    fail(ExitCode::data, what, " at byte ", at_, " of the pattern");
}

uint32_t RegexScanner::next_code() {
    if (done()) refuse("unexpected end");
    size_t length = 0;
    const uint32_t code = decode_utf8(text_, at_, length);
    at_ += length;
    return code;
}

CodeSet RegexScanner::bracket(int depth) {
    if (depth > kMaxRegexDepth) refuse("classes nested too deep");
    const bool negate = take("^");
    CodeSet set, part;
    bool intersect = false;
    const auto finish_part = [&] {
        if (intersect) {
            set.intersect(part);
        } else {
            set = part;
        }
        part = CodeSet();
    };
    if (ahead("]")) refuse("an empty class");
    while (!take("]")) {
        if (done()) refuse("a class without its ]");
        if (take("&&")) {
            finish_part();
            intersect = true;
        } else {
            bracket_item(part, depth);
        }
    }
    finish_part();
    if (ignore_case_) fold_case(set);
    if (negate) set.complement();
    return set;
}

// One nested class, escape, character or range.
void RegexScanner::bracket_item(CodeSet& set, int depth) {
    if (ahead("[:")) refuse("a POSIX class");
    if (take("[")) return set.unite(bracket(depth + 1));
    CodeSet escape;
    if (ahead("\\") && class_escape(escape, true)) return set.unite(escape);
    const uint32_t first = bracket_end_of_range();
    if (ahead("-") && !ahead("-]") && !ahead("-&&")) {
        take("-");
        if (ahead("[")) refuse("a class as the end of a range");
        CodeSet unused;
        if (ahead("\\") && class_escape(unused, true)) refuse("a class as the end of a range");
        const uint32_t last = bracket_end_of_range();
        if (last < first) refuse("a range in the wrong order");
        return set.add(first, last);
    }
    set.add(first);
}

uint32_t RegexScanner::bracket_end_of_range() {
    return ahead("\\") ? escaped_code() : next_code();
}

bool RegexScanner::class_escape(CodeSet& set, bool in_brackets) {
    if (take("\\p{")) return set = property(false), true;
    if (take("\\P{")) return set = property(true), true;
    if (at_ + 1 >= text_.size()) refuse("unexpected end");
    const char letter = text_[at_ + 1];
    switch (letter | 32) {
        case 'd':
            set = *property_set("Nd");
            break;
        case 's':
            set = space_set();
            break;
        case 'w':
            set = word_set(in_brackets);
            break;
        case 'h':
            set.add('0', '9');
            set.add('a', 'f');
            set.add('A', 'F');
            break;
        default:
            return false;
    }
    at_ += 2;
    if (letter < 'a') set.complement();
    return true;
}

CodeSet RegexScanner::property(bool negate) {
    if (take("^")) negate = !negate;
    const size_t end = text_.find('}', at_);
    if (end == std::string_view::npos) refuse("\\p{ without its }");
    std::optional<CodeSet> set = property_set(text_.substr(at_, end - at_));
    if (!set) refuse("an unknown property in \\p{...}");
    at_ = end + 1;
    if (negate) set->complement();
    return *set;
}

uint32_t RegexScanner::escaped_code() {
    take("\\");
    const uint32_t code = next_code();
    switch (code) {
        case 't':
            return '\t';
        case 'n':
            return '\n';
        case 'r':
            return '\r';
        case 'f':
            return '\f';
        case 'v':
            return '\v';
        case 'a':
            return '\a';
        case 'e':
            return 0x1B;
        case 'x':
            return take("{") ? hex(0) : hex(2);
        case 'u':
            return hex(4);
        default:
            break;
    }
    const bool letter = (code | 32) >= 'a' && (code | 32) <= 'z';
    if (letter || (code >= '0' && code <= '9') || code >= 0x80) {
        at_ -= code < 0x80 ? 1 : 0;
        refuse("an unsupported escape");
    }
    return code;
}

// `digits` hexadecimal digits, or any number of them up to a closing brace if `digits` is 0.
uint32_t RegexScanner::hex(size_t digits) {
    uint32_t code = 0;
    for (size_t i = 0; digits == 0 ? !take("}") : i < digits; ++i) {
        const uint32_t c = next_code();
        const uint32_t lower = c | 32;
        if (c >= '0' && c <= '9') {
            code = code * 16 + (c - '0');
        } else if (lower >= 'a' && lower <= 'f') {
            code = code * 16 + (lower - 'a' + 10);
        } else {
            refuse("a malformed hexadecimal escape");
        }
        if (code >= kCodePoints) refuse("a code point above 10FFFF");
    }
    if (digits == 2 && code >= 0x80) refuse("\\x of a byte above 7F (write \\u or \\x{...})");
    return code;
}

void RegexScanner::fold_case(CodeSet& set) const {
    CodeSet ascii;
    ascii.add(0, 0x7F);
    CodeSet rest = ascii;
    rest.complement();
    rest.intersect(set);
    if (!rest.empty()) refuse("characters beyond ASCII under (?i)");
    for (uint32_t upper = 'A'; upper <= 'Z'; ++upper) {
        if (!set.contains(upper) && !set.contains(upper + 32)) continue;
        set.add(upper);
        set.add(upper + 32);
        if (upper == 'K') set.add(0x212A);  // the Kelvin sign
        if (upper == 'S') set.add(0x17F);   // the long s
    }
}

}  // namespace fucina
