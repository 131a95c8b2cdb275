// Short words are merged by scanning for the lowest rank, long ones (a run of 100,000 letters) with
// a heap.
#include "data/tokenizer/bpe.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>
#include <tuple>

#include "kernels/error.h"

namespace fucina {
namespace {

constexpr size_t kShortWord = 48;
constexpr size_t kMaxWhole = 1024;  // longer tokens are not looked up as whole words

}  // namespace

MergeTable::MergeTable(size_t capacity) {
    const size_t size = std::bit_ceil(std::max<size_t>(capacity * 2, 16));
    slots_.resize(size);
    mask_ = size - 1;
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
    for (size_t slot = hash(left, right);; slot = (slot + 1) & mask_) {
        Slot& s = slots_[slot];
        if (s.left >= 0 && (s.left != left || s.right != right)) continue;
        s = {left, right, merge};
        return;
    }
}

Bpe::Bpe(Parts parts) : byte_ids_(parts.byte_ids), merges_(std::move(parts.merges)) {
    remember_whole(parts.words, parts.ignore_merges);
}

// Of every token that merging its own bytes yields (or of all), so that most words are one look-up.
void Bpe::remember_whole(const std::unordered_map<std::string, int32_t>& words, bool all) {
    whole_.resize(std::bit_ceil(words.size() * 2 + 2));
    const size_t mask = whole_.size() - 1;
    std::vector<int32_t> ids;
    for (const auto& [word, id] : words) {
        if (word.empty() || (!all && word.size() > kMaxWhole)) continue;
        ids.clear();
        if (!all) merge(word, ids);
        if (!all && (ids.size() != 1 || ids[0] != id)) continue;
        FUCINA_CHECK(buffer_.size() + word.size() < std::numeric_limits<uint32_t>::max(),
                     "vocabulary too large");
        const uint64_t hash = XXH3_64bits(word.data(), word.size());
        size_t slot = hash & mask;
        while (whole_[slot].id >= 0) slot = (slot + 1) & mask;
        whole_[slot] = {static_cast<uint32_t>(buffer_.size()), static_cast<uint32_t>(word.size()),
                        hash, id};
        buffer_ += word;
    }
}

const Bpe::Whole* Bpe::find_whole(std::string_view word) const {
    const uint64_t hash = XXH3_64bits(word.data(), word.size());
    const size_t mask = whole_.size() - 1;
    for (size_t slot = hash & mask; whole_[slot].id >= 0; slot = (slot + 1) & mask) {
        const Whole& entry = whole_[slot];
        if (entry.hash == hash &&
            std::string_view(buffer_).substr(entry.begin, entry.length) == word)
            return &entry;
    }
    return nullptr;
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& ids) const {
    if (word.empty()) return;
    if (const Whole* whole = find_whole(word)) {
        ids.push_back(whole->id);
    } else {
        merge(word, ids);
    }
}

void Bpe::merge(std::string_view word, std::vector<int32_t>& ids) const {
    const size_t first = ids.size();
    for (const char c : word) {
        const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
        if (id >= 0) ids.push_back(id);
    }
    if (ids.size() - first <= kShortWord) {
        merge_short(ids, first);
    } else {
        merge_long(ids, first);
    }
}

void Bpe::merge_short(std::vector<int32_t>& ids, size_t first) const {
    constexpr MergeTable::Merge none{std::numeric_limits<int32_t>::max(), -1};
    std::array<MergeTable::Merge, kShortWord> merges;  // of symbol i with i + 1
    int32_t* symbols = ids.data() + first;
    size_t count = ids.size() - first;
    const auto look_up = [&](size_t i) {
        const MergeTable::Merge* found =
            i + 1 < count ? merges_.find(symbols[i], symbols[i + 1]) : nullptr;
        merges[i] = found ? *found : none;
    };
    for (size_t i = 0; i < count; ++i) look_up(i);
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; ++i) {
            if (merges[i].rank < merges[best].rank) best = i;
        }
        if (merges[best].id < 0) break;
        symbols[best] = merges[best].id;
        --count;
        for (size_t i = best + 1; i < count; ++i) {
            symbols[i] = symbols[i + 1];
            merges[i] = merges[i + 1];
        }
        look_up(best);
        if (best > 0) look_up(best - 1);
    }
    ids.resize(first + count);
}

void Bpe::merge_long(std::vector<int32_t>& ids, size_t first) const {
    struct Symbol {
        int32_t id;  // -1: merged into the one before
        int64_t previous, next;
    };
    const auto size = static_cast<int64_t>(ids.size() - first);
    std::vector<Symbol> symbols(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i) {
        symbols[static_cast<size_t>(i)] = {ids[first + static_cast<size_t>(i)], i - 1, i + 1};
    }
    const auto at = [&](int64_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
    using Entry = std::tuple<int32_t, int64_t, int32_t>;  // rank, position, id of the merged token
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
    const auto push = [&](int64_t left) {
        if (left < 0 || at(left).next >= size) return;
        const MergeTable::Merge* merge = merges_.find(at(left).id, at(at(left).next).id);
        if (merge) queue.emplace(merge->rank, left, merge->id);
    };
    for (int64_t i = 0; i + 1 < size; ++i) push(i);
    while (!queue.empty()) {
        const auto [rank, left, id] = queue.top();
        queue.pop();
        const int64_t right = at(left).next;
        if (at(left).id < 0 || right >= size) continue;
        const MergeTable::Merge* merge = merges_.find(at(left).id, at(right).id);
        if (!merge || merge->rank != rank) continue;  // the entry is out of date
        at(left).id = id;
        at(left).next = at(right).next;
        at(right).id = -1;
        if (at(left).next < size) at(at(left).next).previous = left;
        push(at(left).previous);
        push(left);
    }
    ids.resize(first);
    for (const Symbol& symbol : symbols) {
        if (symbol.id >= 0) ids.push_back(symbol.id);
    }
}

}  // namespace fucina
