// The learning half of byte pair encoding: repeatedly merges the most frequent adjacent pair of
// symbols.
#pragma once
#include <cstdint>
#include <optional>
#include <queue>
#include <unordered_map>
#include <vector>

namespace fucina {

struct SymbolPair {
    int32_t left, right;
    auto operator<=>(const SymbolPair&) const = default;
};

// Counts are kept up to date word by word; a merge touches only the words that hold the pair.
class PairMerger {
  public:
    // A word as symbols, and how often it occurs.
    void add_word(std::vector<int32_t> symbols, int64_t count);

    // The most frequent pair that occurs at least twice; of equals, the one with the smallest
    // symbols. A pair is returned once, unless merging others makes it more frequent.
    std::optional<SymbolPair> next();
    // Puts `merged` in place of the pair, from left to right in every word.
    void merge(SymbolPair pair, int32_t merged);

  private:
    struct Word {
        std::vector<int32_t> symbols;
        int64_t count;
        int64_t last_merge = -1;  // number of the last merge that looked at the word
    };
    struct Pair {
        int64_t count = 0;
        std::vector<int32_t> words;  // that hold it or held it; may repeat
    };
    struct Entry {
        int64_t count;
        SymbolPair pair;
        bool operator<(const Entry& other) const {
            return count != other.count ? count < other.count : pair > other.pair;
        }
    };
    static uint64_t key(SymbolPair pair) {
        return static_cast<uint64_t>(static_cast<uint32_t>(pair.left)) << 32 |
               static_cast<uint32_t>(pair.right);
    }
    void count_pairs(const Word& word, int64_t sign);

    std::vector<Word> words_;
    std::unordered_map<uint64_t, Pair> pairs_;
    std::priority_queue<Entry> queue_;  // counts as they were when queued, never too low
    int64_t merges_ = 0;
};

}  // namespace fucina
