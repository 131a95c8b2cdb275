// The matching rules of the tokenizers library's added vocabulary, its order of steps included.
#include "data/tokenizer/added_tokens.h"

namespace fucina {
namespace {

const CodeSet& word_edges() {
    static const CodeSet set = word_edge_set();
    return set;
}

const CodeSet& spaces() {
    static const CodeSet set = space_set();
    return set;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder() {
    roots_.fill(-1);
}

bool AddedTokenFinder::add(const AddedToken& token, std::string_view pattern) {
    int32_t node = -1;
    for (size_t i = 0; i < pattern.size(); ++i) {
        const auto byte = static_cast<uint8_t>(pattern[i]);
        const auto fresh = static_cast<int32_t>(token_at_.size());
        int32_t& next =
            i == 0 ? roots_[byte]
                   : edges_.try_emplace(static_cast<uint64_t>(node) << 8 | byte, -1).first->second;
        if (next < 0) {
            next = fresh;
            token_at_.push_back(-1);
        }
        node = next;
    }
    int32_t& slot = token_at_[static_cast<size_t>(node)];
    if (slot >= 0) return false;
    slot = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(token);
    return true;
}

const AddedToken* AddedTokenFinder::longest_at(std::string_view text, size_t at,
                                               size_t& length) const {
    const AddedToken* longest = nullptr;
    int32_t node = roots_[static_cast<uint8_t>(text[at])];
    for (size_t i = at; node >= 0;) {
        const int32_t token = token_at_[static_cast<size_t>(node)];
        if (token >= 0) {
            longest = &tokens_[static_cast<size_t>(token)];
            length = i + 1 - at;
        }
        if (++i >= text.size()) break;
        const auto edge =
            edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
        node = edge == edges_.end() ? -1 : edge->second;
    }
    return longest;
}

bool AddedTokenFinder::stands_alone(std::string_view text, size_t begin, size_t end) const {
    size_t length = 0;
    if (begin > 0 && word_edges().contains(decode_utf8(text, previous_utf8(text, begin), length)))
        return false;
    return end >= text.size() || !word_edges().contains(decode_utf8(text, end, length));
}

void AddedTokenFinder::split(std::string_view text, std::vector<TextPiece>& pieces) const {
    size_t done = 0, length = 0;
    for (size_t at = 0; at < text.size();) {
        const AddedToken* token = longest_at(text, at, length);
        if (!token) {
            ++at;
            continue;
        }
        size_t begin = at, end = at + length;
        at = end;
        if (token->single_word && !stands_alone(text, begin, end)) continue;
        // Space that the token before has taken (by rstrip) is not taken twice.
        while (token->lstrip && begin > done) {
            const size_t previous = previous_utf8(text, begin);
            if (!spaces().contains(decode_utf8(text, previous, length))) break;
            begin = previous;
        }
        if (token->lstrip && begin < done) begin = done;
        while (token->rstrip && end < text.size() &&
               spaces().contains(decode_utf8(text, end, length)))
            end += length;
        if (done < begin) pieces.push_back({text.substr(done, begin - done)});
        pieces.push_back({text.substr(begin, end - begin), token->id});
        done = end;
    }
    if (done != text.size()) pieces.push_back({text.substr(done)});
}

}  // namespace fucina
