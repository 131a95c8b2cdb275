// Translates a pattern (valid UTF-8) for PCRE2: characters and classes become sets, groups and
// quantifiers are copied where both engines mean the same, written out where they do not.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <string>
#include <utility>

#include "data/tokenizer/regex_syntax.h"
#include "kernels/error.h"

namespace fucina {
namespace {

constexpr size_t kMaxPattern = 16'384;  // bytes
constexpr uint32_t kMaxCount = 1000;
constexpr uint32_t kNoLimit = UINT32_MAX;
constexpr int kMaxDepth = 40;  // of classes

class Parser {
  public:
    explicit Parser(std::string_view pattern) : text_(pattern) {}
    RegexSource run();

  private:
    struct Flags {
        bool ignore_case = false, dot_all = false;
    };
    struct Group {
        std::optional<size_t> begin;  // in the output; nothing if no quantifier may follow
        Flags outside;
        size_t closing = 1;  // brackets that end it in the output
    };

    [[noreturn]] void refuse(const std::string& what) const {
        fail(ExitCode::data, what, " at byte ", at_, " of the pattern");
    }
    bool done() const { return at_ >= text_.size(); }
    bool ahead(std::string_view s) const { return text_.substr(at_, s.size()) == s; }
    bool take(std::string_view s) {
        if (!ahead(s)) return false;
        at_ += s.size();
        return true;
    }
    uint32_t next_code();

    void item();
    void character(uint32_t literal_before);
    void line_edge();
    void open();
    void flag_group();
    void close();
    bool quantifier();
    bool interval(uint32_t& min, uint32_t& max);
    // The inside of [...] after its opening bracket.
    CodeSet bracket(int depth);
    void bracket_item(CodeSet& set, int depth);
    uint32_t bracket_end_of_range() { return ahead("\\") ? escaped_code() : next_code(); }
    // \d, \p{...} and their like: true and the set. False leaves the escape to escaped_code().
    // \w by itself has a few members of Latin-1 more than in brackets.
    bool class_escape(CodeSet& set, bool in_brackets);
    uint32_t escaped_code();
    uint32_t hex(size_t end, size_t more);
    // Closes a set under simple case folding; only sets of ASCII characters are supported.
    void fold_case(CodeSet& set) const;
    char byte_of(CodeSet set);  // stands for the set in the output
    void put_set(CodeSet set) {
        unit_ = out_.size();
        out_ += byte_of(std::move(set));
    }

    std::string_view text_;
    size_t at_ = 0;
    Flags flags_;
    std::vector<Group> groups_{{.closing = 0}};  // those that are open; the first is the pattern
    std::string out_;
    std::vector<CodeSet> sets_;
    std::optional<size_t> unit_;     // where in the output lies what a quantifier would repeat
    bool quantified_ = false;        // whether it ends with a quantifier
    uint32_t previous_literal_ = 0;  // the literal just before, under ignore_case
};

RegexSource Parser::run() {
    if (text_.size() > kMaxPattern) refuse("a pattern of more than 16 KB");
    while (!done())
        if (!quantifier()) item();
    if (groups_.size() > 1) refuse("a group without its )");
    out_.append(groups_.front().closing, ')');
    return {std::move(out_), std::move(sets_)};
}

uint32_t Parser::next_code() {
    if (done()) refuse("unexpected end");
    size_t length = 0;
    const uint32_t code = decode_utf8(text_, at_, length);
    at_ += length;
    return code;
}

void Parser::item() {
    const uint32_t literal_before = std::exchange(previous_literal_, 0);
    unit_.reset();
    quantified_ = false;
    if (take("(")) {
        open();
    } else if (take(")")) {
        close();
    } else if (take("|")) {
        out_ += '|';
    } else if (take("[")) {
        put_set(bracket(0));
    } else if (take(".")) {
        CodeSet set;
        if (!flags_.dot_all) set.add('\n');
        set.complement();
        put_set(std::move(set));
    } else if (ahead("^") || ahead("$")) {
        line_edge();
    } else if (ahead("\\A") || ahead("\\z")) {
        out_ += text_.substr(at_, 2);
        at_ += 2;
    } else {
        character(literal_before);
    }
}

void Parser::character(uint32_t literal_before) {
    if (ahead("\\")) {
        CodeSet set;
        if (class_escape(set, false)) {
            if (flags_.ignore_case) refuse("a class under (?i)");
            return put_set(std::move(set));
        }
    }
    const uint32_t code = ahead("\\") ? escaped_code() : next_code();
    if (flags_.ignore_case) {
        // One character that folds to two (sharp s, ligatures) would have to match such a pair.
        const auto lower = [](uint32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; };
        for (const char* pair : {"ss", "st", "ff", "fi", "fl"})
            if (lower(literal_before) == static_cast<uint32_t>(pair[0]) &&
                lower(code) == static_cast<uint32_t>(pair[1]))
                refuse("letters that fold together under (?i)");
        previous_literal_ = code;
    }
    CodeSet set;
    set.add(code);
    if (flags_.ignore_case) fold_case(set);
    put_set(std::move(set));
}

// Lines begin behind a newline unless the text ends there, and end before one.
void Parser::line_edge() {
    CodeSet set;
    set.add('\n');
    const std::string newline(1, byte_of(std::move(set)));
    out_ += text_[at_++] == '^' ? "(?:\\A|(?<=" + newline + ")(?!\\z))" : "(?=" + newline + "|\\z)";
}

void Parser::open() {
    for (const char* look : {"?=", "?!", "?<=", "?<!"}) {
        if (!take(look)) continue;
        out_.append("(").append(look);
        return groups_.push_back({.begin = {}, .outside = flags_});
    }
    if (ahead("?") && !ahead("?:") && !ahead("?>")) return flag_group();
    groups_.push_back({.begin = out_.size(), .outside = flags_});
    out_ += ahead("?>") ? "(?>" : "(?:";
    take("?>") || take("?:");
}

// (?i), (?m) and (?i:...). An isolated flag opens a group up to the enclosing group's end.
void Parser::flag_group() {
    take("?");
    const Flags outside = flags_;
    for (bool on = true; !done() && !ahead(":") && !ahead(")");) {
        if (take("-")) {
            on = false;
        } else if (take("i")) {
            flags_.ignore_case = on;
        } else if (take("m")) {
            flags_.dot_all = on;
        } else {
            refuse("an unsupported kind of group");
        }
    }
    if (take(")")) {
        ++groups_.back().closing;
    } else if (take(":")) {
        groups_.push_back({.begin = out_.size(), .outside = outside});
    }
    out_ += "(?:";
}

void Parser::close() {
    if (groups_.size() == 1) {
        --at_;
        refuse("unmatched )");
    }
    out_.append(groups_.back().closing, ')');
    unit_ = groups_.back().begin;
    flags_ = groups_.back().outside;
    groups_.pop_back();
}

// Any number of quantifiers may follow one another here, but not in PCRE2.
bool Parser::quantifier() {
    const size_t start = at_;
    uint32_t min = 0, max = kNoLimit;
    bool is_interval = false;
    if (take("*")) {
    } else if (take("+")) {
        min = 1;
    } else if (take("?")) {
        max = 1;
    } else if (ahead("{") && interval(min, max)) {
        is_interval = true;
    } else {
        return false;
    }
    if (!unit_) {
        at_ = start;
        refuse("nothing to repeat");
    }
    previous_literal_ = 0;
    const auto group = [&] {
        if (std::exchange(quantified_, true)) out_.insert(*unit_, "(?:") += ')';
    };
    group();
    out_.append("{").append(std::to_string(min)).append(",");
    if (max != kNoLimit) out_ += std::to_string(max);
    out_ += '}';
    // After an interval, + is one more quantifier, and {n}? means "n or none".
    if (is_interval && min == max && take("?")) {
        group();
        out_ += '?';
    } else if (take("?")) {
        out_ += '?';
    } else if (!is_interval && take("+")) {
        out_ += '+';
    }
    return true;
}

// {n}, {n,}, {,m} or {n,m}; anything else leaves the brace to be a literal.
bool Parser::interval(uint32_t& min, uint32_t& max) {
    const size_t end = std::min(text_.find('}', at_), text_.size());
    const std::string_view inside = text_.substr(at_ + 1, end - at_ - 1);
    const size_t comma = inside.find(',');
    const std::string_view first = inside.substr(0, comma);
    const std::string_view last = comma == inside.npos ? first : inside.substr(comma + 1);
    const auto other = [](char c) { return c < '0' || c > '9'; };
    const bool digits = std::ranges::none_of(first, other) && std::ranges::none_of(last, other);
    if (end == text_.size() || !digits || inside.size() < 1 + (comma != inside.npos)) return false;
    const auto number = [&](std::string_view s, uint32_t& value) {
        if (s.empty()) return;
        const auto [at, error] = std::from_chars(s.data(), s.data() + s.size(), value);
        if (error != std::errc() || value > kMaxCount) refuse("a repeat count above 1000");
    };
    number(first, min);
    number(last, max);
    if (max < min) refuse("a repeat range in the wrong order");
    at_ = end + 1;
    return true;
}

char Parser::byte_of(CodeSet set) {
    const auto found = std::find(sets_.begin(), sets_.end(), set);
    const auto index = found - sets_.begin();
    if (found == sets_.end()) {
        if (sets_.size() == kMaxRegexSets) refuse("more than 100 different characters and classes");
        sets_.push_back(std::move(set));
    }
    return static_cast<char>(kFirstRegexSet + index);
}

CodeSet Parser::bracket(int depth) {
    if (depth > kMaxDepth) refuse("classes nested too deep");
    const bool negate = take("^");
    CodeSet set, part;
    set.complement();
    if (ahead("]")) refuse("an empty class");
    while (!take("]")) {
        if (done()) refuse("a class without its ]");
        if (take("&&")) {
            set.intersect(std::exchange(part, {}));
        } else {
            bracket_item(part, depth);
        }
    }
    set.intersect(part);
    if (flags_.ignore_case) fold_case(set);
    if (negate) set.complement();
    return set;
}

// One nested class, escape, character or range.
void Parser::bracket_item(CodeSet& set, int depth) {
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

bool Parser::class_escape(CodeSet& set, bool in_brackets) {
    const std::string_view escape = text_.substr(at_, 2);
    if (escape.size() < 2) refuse("unexpected end");
    const int letter = std::tolower(static_cast<unsigned char>(escape[1]));
    bool negate = letter != escape[1];
    size_t end = at_ + 2;
    if (letter == 'd') {
        set = *property_set("Nd");
    } else if (letter == 's') {
        set = space_set();
    } else if (letter == 'w') {
        set = word_set(in_brackets);
    } else if (letter == 'h') {
        set.add('0', '9');
        set.add('a', 'f');
        set.add('A', 'F');
    } else if (letter == 'p') {
        at_ = end;
        if (!take("{")) refuse("a property without its {");
        negate ^= take("^");
        end = text_.find('}', at_);
        if (end++ == text_.npos) refuse("\\p{ without its }");
        const auto known = property_set(text_.substr(at_, end - 1 - at_));
        if (!known) refuse("an unknown property in \\p{...}");
        set = *known;
    } else {
        return false;
    }
    at_ = end;
    if (negate) set.complement();
    return true;
}

uint32_t Parser::escaped_code() {
    constexpr std::string_view kLetters = "tnrfvae", kMeanings = "\t\n\r\f\v\a\x1B";
    take("\\");
    if (take("x{")) return hex(text_.find('}', at_), 1);
    if (take("x")) return hex(at_ + 2, 0);
    if (take("u")) return hex(at_ + 4, 0);
    const size_t start = at_;
    const uint32_t code = next_code();
    if (code < 0x80 && std::isalnum(static_cast<int>(code)) == 0) return code;
    const size_t letter = code < 0x80 ? kLetters.find(static_cast<char>(code)) : kLetters.npos;
    if (letter != kLetters.npos) return static_cast<uint32_t>(kMeanings[letter]);
    at_ = start;
    refuse("an unsupported escape");
}

// The hexadecimal digits up to `end`, and `more` characters behind them.
uint32_t Parser::hex(size_t end, size_t more) {
    const std::string_view digits = text_.substr(at_, std::min(end, text_.size()) - at_);
    uint32_t code = 0;
    const auto [stop, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (end > text_.size() || stop != digits.data() + digits.size() || stop == digits.data())
        refuse("a malformed hexadecimal escape");
    if (error != std::errc() || code >= kCodePoints) refuse("a code point above 10FFFF");
    if (digits.size() == 2 && more == 0 && code >= 0x80)
        refuse("\\x of a byte above 7F (write \\u or \\x{...})");
    at_ = end + more;
    return code;
}

void Parser::fold_case(CodeSet& set) const {
    CodeSet beyond;
    beyond.add(0x80, kCodePoints - 1);
    beyond.intersect(set);
    if (!beyond.empty()) refuse("characters beyond ASCII under (?i)");
    for (uint32_t upper = 'A'; upper <= 'Z'; ++upper) {
        if (!set.contains(upper) && !set.contains(upper + 32)) continue;
        set.add(upper);
        set.add(upper + 32);
        if (upper == 'K') set.add(0x212A);  // the Kelvin sign
        if (upper == 'S') set.add(0x17F);   // the long s
    }
}

}  // namespace

RegexSource parse_regex(std::string_view pattern) {
    return Parser(pattern).run();
}

}  // namespace fucina
