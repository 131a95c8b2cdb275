// The splits work on positions in one text; only a prefix space makes a copy.
#include "data/tokenizer/pre_tokenizer.h"

#include <string>

namespace fucina {
namespace {

struct Part {
    Span span;
    bool match;
};

// Matches and what lies between them, covering the whole text.
std::vector<Part> cover(const std::vector<Span>& matches, uint32_t size, bool invert) {
    std::vector<Part> parts;
    uint32_t done = 0;
    for (const Span match : matches) {
        if (done != match.begin) parts.push_back({{done, match.begin}, invert});
        parts.push_back({match, !invert});
        done = match.end;
    }
    if (done != size) parts.push_back({{done, size}, invert});
    return parts;
}

// Whether `part` joins its neighbour, the last one taken, whose kind was `before`.
bool joins(SplitBehavior behavior, bool match, bool before) {
    return behavior == SplitBehavior::contiguous ? match == before : match && !before;
}

std::vector<Span> arrange(const std::vector<Part>& parts, SplitBehavior behavior) {
    std::vector<Span> spans;
    const auto size = static_cast<int64_t>(parts.size());
    const bool backwards = behavior == SplitBehavior::merged_with_next;
    bool before = false;
    for (int64_t i = 0; i < size; ++i) {
        const Part& part = parts[static_cast<size_t>(backwards ? size - 1 - i : i)];
        if (behavior == SplitBehavior::isolated || behavior == SplitBehavior::removed) {
            if (behavior == SplitBehavior::isolated || !part.match) spans.push_back(part.span);
        } else if (!spans.empty() && joins(behavior, part.match, before)) {
            (backwards ? spans.back().begin : spans.back().end) =
                backwards ? part.span.begin : part.span.end;
        } else {
            spans.push_back(part.span);
        }
        before = part.match;
    }
    return backwards ? std::vector<Span>(spans.rbegin(), spans.rend()) : spans;
}

}  // namespace

void SplitRule::apply(std::string_view text, Span piece, std::vector<Span>& out) const {
    const std::string_view inside = text.substr(piece.begin, piece.end - piece.begin);
    std::vector<Span> matches;
    pattern.find_all(inside, matches);
    if (matches.empty() && !invert) return out.push_back(piece);
    const std::vector<Part> parts = cover(matches, static_cast<uint32_t>(inside.size()), invert);
    for (const Span span : arrange(parts, behavior)) {
        if (span.begin != span.end)
            out.push_back({piece.begin + span.begin, piece.begin + span.end});
    }
}

void PreTokenizer::split(std::string_view text,
                         const std::function<void(std::string_view)>& word) const {
    if (text.empty()) return;
    std::vector<Span> pieces{{0, static_cast<uint32_t>(text.size())}}, next;
    for (const SplitRule& rule : rules_) {
        next.clear();
        for (const Span piece : pieces) rule.apply(text, piece, next);
        pieces.swap(next);
    }
    std::string prefixed;
    for (const Span piece : pieces) {
        std::string_view words = text.substr(piece.begin, piece.end - piece.begin);
        if (byte_level_.add_prefix_space && words.front() != ' ')
            words = prefixed = std::string(" ").append(words);
        if (!byte_level_.words) {
            word(words);
            continue;
        }
        next.clear();
        byte_level_.words->apply(words, {0, static_cast<uint32_t>(words.size())}, next);
        for (const Span span : next) word(words.substr(span.begin, span.end - span.begin));
    }
}

}  // namespace fucina
