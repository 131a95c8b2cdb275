// Compiles the tree of a pattern into steps.
#include <algorithm>

#include "data/tokenizer/regex.h"
#include "data/tokenizer/regex_syntax.h"
#include "kernels/error.h"

namespace fucina {
namespace {

constexpr size_t kMaxSteps = 20'000;

using Node = RegexNode;

bool may_be_empty(const Node& node) {
    switch (node.kind) {
        case Node::set:
            return false;
        case Node::concat:
            return std::all_of(node.children.begin(), node.children.end(), may_be_empty);
        case Node::alternate:
            return std::any_of(node.children.begin(), node.children.end(), may_be_empty);
        case Node::repeat:
            return node.min == 0 || may_be_empty(node.children[0]);
        case Node::atomic:
            return may_be_empty(node.children[0]);
        default:
            return true;
    }
}

// Adds the code points that a non-empty match of `node` can begin with.
void add_first(const Node& node, const std::vector<CodeSet>& sets, CodeSet& first) {
    if (node.kind == Node::set) return first.unite(sets[static_cast<size_t>(node.set_index)]);
    if (node.kind == Node::look) return;
    for (const Node& child : node.children) {
        add_first(child, sets, first);
        if (node.kind == Node::concat && !may_be_empty(child)) return;
    }
}

}  // namespace

class RegexCompiler {
  public:
    explicit RegexCompiler(Regex& regex) : regex_(regex) {}

    void run(RegexTree tree) {
        regex_.sets_ = std::move(tree.sets);
        emit(tree.root);
        add({.op = RegexStep::accept});
        regex_.filter_ = !may_be_empty(tree.root);
        if (regex_.filter_) add_first(tree.root, regex_.sets_, regex_.first_);
    }

  private:
    int32_t here() const { return static_cast<int32_t>(regex_.steps_.size()); }
    RegexStep& step(int32_t index) { return regex_.steps_[static_cast<size_t>(index)]; }

    int32_t add(const RegexStep& s) {
        if (regex_.steps_.size() >= kMaxSteps)
            fail(ExitCode::data, "the pattern is too large once its repeats are unrolled");
        regex_.steps_.push_back(s);
        return here() - 1;
    }

    void emit(const Node& node) {
        switch (node.kind) {
            case Node::empty:
                break;
            case Node::set:
                add({.op = RegexStep::set, .a = node.set_index});
                break;
            case Node::concat:
                for (const Node& child : node.children) emit(child);
                break;
            case Node::alternate:
                emit_alternate(node);
                break;
            case Node::repeat:
                emit_repeat(node);
                break;
            case Node::atomic:
                emit_atomic(node.children[0]);
                break;
            case Node::look:
                emit_look(node);
                break;
            case Node::anchor:
                add({.op = node.where == 'A'   ? RegexStep::text_begin
                           : node.where == 'z' ? RegexStep::text_end
                           : node.where == '^' ? RegexStep::line_begin
                                               : RegexStep::line_end});
                break;
        }
    }

    void emit_alternate(const Node& node) {
        std::vector<int32_t> jumps;
        for (size_t i = 0; i < node.children.size(); ++i) {
            const bool last = i + 1 == node.children.size();
            const int32_t split = last ? -1 : add({.op = RegexStep::split});
            if (!last) step(split).a = here();
            emit(node.children[i]);
            if (last) break;
            jumps.push_back(add({.op = RegexStep::jump}));
            step(split).b = here();
        }
        for (const int32_t jump : jumps) step(jump).a = here();
    }

    void emit_repeat(const Node& node) {
        const Node& child = node.children[0];
        if (child.kind == Node::set && node.greed != Node::lazy) {
            add({.op = node.greed == Node::greedy ? RegexStep::loop : RegexStep::atomic_loop,
                 .a = child.set_index,
                 .min = node.min,
                 .max = node.max});
            return;
        }
        if (node.greed == Node::possessive) {
            const int32_t atomic = add({.op = RegexStep::atomic});
            emit_unrolled(node);
            add({.op = RegexStep::accept});
            step(atomic).a = here();
            return;
        }
        emit_unrolled(node);
    }

    // `min` copies, then a loop or nested options; each choice goes on first if greedy and leaves
    // first if lazy.
    void emit_unrolled(const Node& node) {
        const Node& child = node.children[0];
        for (uint32_t i = 0; i < node.min; ++i) {
            const int32_t before = here();
            emit(child);
            if (here() == before) break;  // an empty group, however often
        }
        const auto choose = [&](int32_t split, int32_t on, int32_t leave) {
            step(split).a = node.greed == Node::lazy ? leave : on;
            step(split).b = node.greed == Node::lazy ? on : leave;
        };
        if (node.max == kNoLimit) {
            if (may_be_empty(child))
                fail(ExitCode::data, "the pattern repeats without limit what may be empty");
            const int32_t split = add({.op = RegexStep::split});
            emit(child);
            add({.op = RegexStep::jump, .a = split});
            choose(split, split + 1, here());
            return;
        }
        std::vector<int32_t> splits;
        for (uint32_t i = node.min; i < node.max; ++i) {
            splits.push_back(add({.op = RegexStep::split}));
            emit(child);
        }
        for (const int32_t split : splits) choose(split, split + 1, here());
    }

    void emit_atomic(const Node& child) {
        const int32_t atomic = add({.op = RegexStep::atomic});
        emit(child);
        add({.op = RegexStep::accept});
        step(atomic).a = here();
    }

    void emit_look(const Node& node) {
        if (!node.ahead) {
            add({.op = RegexStep::look_behind,
                 .negate = node.negate,
                 .a = node.children[0].set_index});
            return;
        }
        const int32_t look = add({.op = RegexStep::look_ahead, .negate = node.negate});
        emit(node.children[0]);
        add({.op = RegexStep::accept});
        step(look).a = here();
    }

    Regex& regex_;
};

Regex::Regex(std::string_view pattern) {
    RegexCompiler(*this).run(parse_regex(pattern));
}

Regex Regex::literal(std::string_view text) {
    RegexTree tree;
    tree.root.kind = Node::concat;
    size_t length = 0;
    for (size_t at = 0; at < text.size(); at += length) {
        CodeSet set;
        set.add(decode_utf8(text, at, length));
        tree.root.children.push_back({.kind = Node::set,
                                      .children = {},
                                      .set_index = static_cast<int32_t>(tree.sets.size())});
        tree.sets.push_back(std::move(set));
        if (tree.sets.size() > 100)
            fail(ExitCode::data, "a literal pattern of more than 100 characters");
    }
    Regex regex;
    RegexCompiler(regex).run(std::move(tree));
    return regex;
}

Regex Regex::of_set(CodeSet set) {
    RegexTree tree{.root = {.kind = Node::set, .children = {}}, .sets = {}};
    tree.sets.push_back(std::move(set));
    Regex regex;
    RegexCompiler(regex).run(std::move(tree));
    return regex;
}

}  // namespace fucina
