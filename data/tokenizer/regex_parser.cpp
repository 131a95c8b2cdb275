// Parses a pattern (valid UTF-8) into a tree. Nesting, repeat counts and the number of sets are
// bounded, so that no pattern exhausts the stack or memory.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "data/tokenizer/regex_scanner.h"
#include "data/tokenizer/regex_syntax.h"
#include "kernels/error.h"

namespace fucina {
namespace {

constexpr size_t kMaxSets = 100;
constexpr size_t kMaxPattern = 16'384;  // bytes
constexpr uint32_t kMaxCount = 1000;

class Parser : private RegexScanner {
  public:
    explicit Parser(std::string_view pattern) : RegexScanner(pattern) {}

    RegexTree run() {
        tree_.root = alternation(0);
        if (!done()) refuse("unmatched )");
        return std::move(tree_);
    }

  private:
    RegexNode alternation(int depth);
    RegexNode sequence(int depth);
    RegexNode atom(int depth);
    RegexNode group(int depth);
    bool inline_flags(RegexNode& node, int depth);
    RegexNode look(bool ahead, bool negate, int depth);
    RegexNode quantified(RegexNode node, int depth);
    bool interval(uint32_t& min, uint32_t& max);
    RegexNode set_node(CodeSet set);
    RegexNode single(uint32_t code);

    RegexTree tree_;
    bool dot_all_ = false;
    uint32_t previous_literal_ = 0;  // the literal just before, under ignore_case
};

RegexNode wrap(RegexNode::Kind kind, RegexNode child) {
    RegexNode node{.kind = kind, .children = {}};
    node.children.push_back(std::move(child));
    return node;
}

RegexNode repeat(RegexNode child, uint32_t min, uint32_t max, RegexNode::Greed greed) {
    RegexNode node = wrap(RegexNode::repeat, std::move(child));
    node.min = min;
    node.max = max;
    node.greed = greed;
    return node;
}

RegexNode Parser::alternation(int depth) {
    if (depth > kMaxRegexDepth) refuse("groups nested too deep");
    const std::pair outer(ignore_case_, dot_all_);
    RegexNode first = sequence(depth);
    if (ahead("|")) {
        first = wrap(RegexNode::alternate, std::move(first));
        while (take("|")) first.children.push_back(sequence(depth));
    }
    std::tie(ignore_case_, dot_all_) = outer;
    return first;
}

RegexNode Parser::sequence(int depth) {
    RegexNode node{.kind = RegexNode::concat, .children = {}};
    previous_literal_ = 0;
    while (!done() && !ahead("|") && !ahead(")"))
        node.children.push_back(quantified(atom(depth), depth));
    return node;
}

RegexNode Parser::atom(int depth) {
    const uint32_t literal_before = std::exchange(previous_literal_, 0);
    if (take("(")) return group(depth + 1);
    if (take("[")) return set_node(bracket(depth + 1));
    if (take(".")) {
        CodeSet set;
        if (!dot_all_) set.add('\n');
        set.complement();
        return set_node(std::move(set));
    }
    for (const char where : {'^', '$'}) {
        if (take(std::string_view(&where, 1)))
            return {.kind = RegexNode::anchor, .children = {}, .where = where};
    }
    if (take("\\A")) return {.kind = RegexNode::anchor, .children = {}, .where = 'A'};
    if (take("\\z")) return {.kind = RegexNode::anchor, .children = {}, .where = 'z'};
    if (ahead("*") || ahead("+") || ahead("?")) refuse("nothing to repeat");
    if (ahead("\\")) {
        CodeSet set;
        if (class_escape(set, false)) {
            if (ignore_case_) refuse("a class under (?i)");
            return set_node(std::move(set));
        }
    }
    const uint32_t code = ahead("\\") ? escaped_code() : next_code();
    if (ignore_case_) {
        // One character that folds to two (sharp s, ligatures) would have to match such a pair.
        const auto lower = [](uint32_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; };
        for (const char* pair : {"ss", "st", "ff", "fi", "fl"}) {
            if (lower(literal_before) == static_cast<uint32_t>(pair[0]) &&
                lower(code) == static_cast<uint32_t>(pair[1])) {
                refuse("letters that fold together under (?i)");
            }
        }
        previous_literal_ = code;
    }
    return single(code);
}

RegexNode Parser::group(int depth) {
    if (depth > kMaxRegexDepth) refuse("groups nested too deep");
    RegexNode node;
    if (take("?=")) {
        node = look(true, false, depth);
    } else if (take("?!")) {
        node = look(true, true, depth);
    } else if (take("?<=")) {
        node = look(false, false, depth);
    } else if (take("?<!")) {
        node = look(false, true, depth);
    } else if (take("?>")) {
        node = wrap(RegexNode::atomic, alternation(depth));
    } else if (take("?:") || !ahead("?")) {
        node = alternation(depth);
    } else if (inline_flags(node, depth)) {
        return node;
    }
    if (!take(")")) refuse("a group without its )");
    return node;
}

// (?i), (?m) and (?i:...): true if the group was closed at once and the flags hold up to the end of
// the outer one.
bool Parser::inline_flags(RegexNode& node, int depth) {
    take("?");
    const std::pair outer(ignore_case_, dot_all_);
    for (bool on = true; !done() && !ahead(":") && !ahead(")");) {
        if (take("-")) {
            on = false;
        } else if (take("i")) {
            ignore_case_ = on;
        } else if (take("m")) {
            dot_all_ = on;
        } else {
            refuse("an unsupported kind of group");
        }
    }
    if (take(")")) {  // in this syntax, an isolated flag opens a group up to the enclosing group's
                      // end
        node = alternation(depth);
        std::tie(ignore_case_, dot_all_) = outer;
        return true;
    }
    take(":");
    node = alternation(depth);
    std::tie(ignore_case_, dot_all_) = outer;
    return false;
}

RegexNode Parser::look(bool ahead, bool negate, int depth) {
    RegexNode node = wrap(RegexNode::look, alternation(depth));
    node.ahead = ahead;
    node.negate = negate;
    if (!ahead) {
        const RegexNode* child = &node.children[0];
        while (child->kind == RegexNode::concat && child->children.size() == 1)
            child = &child->children[0];
        if (child->kind != RegexNode::set) refuse("a look-behind at more than one character");
        node.children = {RegexNode(*child)};
    }
    return node;
}

RegexNode Parser::quantified(RegexNode node, int depth) {
    for (int chain = 0;; ++chain) {
        uint32_t min = 0, max = kNoLimit;
        const size_t start = at_;
        bool is_interval = false;
        if (take("*")) {
        } else if (take("+")) {
            min = 1;
        } else if (take("?")) {
            max = 1;
        } else if (ahead("{") && interval(min, max)) {
            is_interval = true;
        } else {
            return node;
        }
        previous_literal_ = 0;
        if (chain + depth > kMaxRegexDepth) refuse("quantifiers nested too deep");
        if (node.kind == RegexNode::look || node.kind == RegexNode::anchor) {
            at_ = start;
            refuse("a repeated assertion");
        }
        // After an interval, + is one more quantifier, and {n}? means "n or none".
        RegexNode::Greed greed = RegexNode::greedy;
        if (is_interval && min == max && take("?")) {
            node = repeat(repeat(std::move(node), min, max, greed), 0, 1, greed);
            continue;
        }
        if (take("?")) {
            greed = RegexNode::lazy;
        } else if (!is_interval && take("+")) {
            greed = RegexNode::possessive;
        }
        node = repeat(std::move(node), min, max, greed);
    }
}

// {n}, {n,}, {,m} or {n,m}; anything else leaves the brace to be a literal.
bool Parser::interval(uint32_t& min, uint32_t& max) {
    size_t at = at_ + 1;
    const auto number = [&](uint32_t& value) {
        const size_t start = at;
        value = 0;
        while (at < text_.size() && text_[at] >= '0' && text_[at] <= '9') {
            value = std::min(value * 10 + static_cast<uint32_t>(text_[at++] - '0'), kMaxCount + 1);
        }
        return at > start;
    };
    const bool has_min = number(min);
    bool has_max = false;
    const bool comma = at < text_.size() && text_[at] == ',';
    if (comma) {
        ++at;
        has_max = number(max);
        if (!has_max) max = kNoLimit;
    } else {
        max = min;
    }
    if ((!has_min && !has_max) || at >= text_.size() || text_[at] != '}') return false;
    at_ = at + 1;
    if (min > kMaxCount || (max != kNoLimit && max > kMaxCount))
        refuse("a repeat count above 1000");
    if (max < min) refuse("a repeat range in the wrong order");
    return true;
}

RegexNode Parser::set_node(CodeSet set) {
    const auto found = std::find(tree_.sets.begin(), tree_.sets.end(), set);
    const auto index = static_cast<int32_t>(found - tree_.sets.begin());
    if (found == tree_.sets.end()) {
        if (tree_.sets.size() >= kMaxSets) refuse("more than 100 different characters and classes");
        tree_.sets.push_back(std::move(set));
    }
    return {.kind = RegexNode::set, .children = {}, .set_index = index};
}

RegexNode Parser::single(uint32_t code) {
    CodeSet set;
    set.add(code);
    if (ignore_case_) fold_case(set);
    return set_node(std::move(set));
}

}  // namespace

RegexTree parse_regex(std::string_view pattern) {
    return Parser(pattern).run();
}

}  // namespace fucina
