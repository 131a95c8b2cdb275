// The queue is lazy: what it says of a pair may be out of date, and is checked when the pair comes
// up.
#include "data/tokenizer/pair_merger.h"

#include <algorithm>
#include <utility>

namespace fucina {

void PairMerger::add_word(std::vector<int32_t> symbols, int64_t count) {
    const auto index = static_cast<int32_t>(words_.size());
    words_.push_back({std::move(symbols), count});
    const Word& word = words_.back();
    count_pairs(word, 1);
    for (size_t i = 0; i + 1 < word.symbols.size(); ++i) {
        pairs_[key({word.symbols[i], word.symbols[i + 1]})].words.push_back(index);
    }
}

void PairMerger::count_pairs(const Word& word, int64_t sign) {
    for (size_t i = 0; i + 1 < word.symbols.size(); ++i) {
        pairs_[key({word.symbols[i], word.symbols[i + 1]})].count += sign * word.count;
    }
}

std::optional<SymbolPair> PairMerger::next() {
    if (merges_ == 0 && queue_.empty()) {
        for (const auto& [packed, pair] : pairs_) {
            queue_.push(
                {pair.count, {static_cast<int32_t>(packed >> 32), static_cast<int32_t>(packed)}});
        }
    }
    while (!queue_.empty()) {
        const Entry entry = queue_.top();
        queue_.pop();
        const int64_t count = pairs_[key(entry.pair)].count;
        if (count < 2) continue;
        if (count == entry.count) return entry.pair;
        if (count < entry.count) queue_.push({count, entry.pair});
    }
    return std::nullopt;
}

void PairMerger::merge(SymbolPair pair, int32_t merged) {
    const std::vector<int32_t> touched = std::exchange(pairs_[key(pair)].words, {});
    std::vector<SymbolPair> grown;
    for (const int32_t index : touched) {
        Word& word = words_[static_cast<size_t>(index)];
        if (word.last_merge == merges_) continue;
        word.last_merge = merges_;
        count_pairs(word, -1);
        size_t size = 0;
        for (size_t i = 0; i < word.symbols.size(); ++i) {
            const bool here = word.symbols[i] == pair.left && i + 1 < word.symbols.size() &&
                              word.symbols[i + 1] == pair.right;
            word.symbols[size++] = here ? merged : word.symbols[i];
            if (here) ++i;
        }
        word.symbols.resize(size);
        count_pairs(word, 1);
        for (size_t i = 0; i + 1 < size; ++i) {
            const SymbolPair fresh{word.symbols[i], word.symbols[i + 1]};
            if (fresh.left != merged && fresh.right != merged) continue;
            pairs_[key(fresh)].words.push_back(index);
            grown.push_back(fresh);
        }
    }
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (const SymbolPair fresh : grown) queue_.push({pairs_[key(fresh)].count, fresh});
    ++merges_;
}

}  // namespace fucina
