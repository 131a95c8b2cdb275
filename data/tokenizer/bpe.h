// Byte pair encoding of one word: of all adjacent pairs that have a merge, the one of lowest rank,
// leftmost among equals, is merged until none is left (Sennrich et al. 2016, arXiv:1508.07909).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fucina {

// (left id, right id) -> (rank, id of the merged token); open addressing, built once.
class MergeTable {
  public:
    struct Merge {
        int32_t rank, id;
    };

    explicit MergeTable(size_t capacity = 0);
    void insert(int32_t left, int32_t right, Merge merge);  // the last one of a pair stays
    const Merge* find(int32_t left, int32_t right) const {
        for (size_t slot = hash(left, right);; slot = (slot + 1) & mask_) {
            const Slot& s = slots_[slot];
            if (s.left == left && s.right == right) return &s.merge;
            if (s.left < 0) return nullptr;
        }
    }

  private:
    struct Slot {
        int32_t left = -1, right = -1;
        Merge merge{};
    };
    size_t hash(int32_t left, int32_t right) const {
        const uint64_t key =
            static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
        return (key * 0x9E3779B97F4A7C15u >> 20) & mask_;
    }

    std::vector<Slot> slots_;
    size_t mask_ = 0;
};

class Bpe {
  public:
    struct Parts {
        std::unordered_map<std::string, int32_t> words;  // bytes of a token -> id
        std::array<int32_t, 256> byte_ids;               // -1: no token, the byte is left out
        MergeTable merges;
        bool ignore_merges = false;  // a word that is a token is not looked into
    };

    Bpe() = default;
    explicit Bpe(Parts parts);
    // Appends the ids of a word (bytes).
    void encode(std::string_view word, std::vector<int32_t>& ids) const;

  private:
    void merge(std::string_view word, std::vector<int32_t>& ids) const;
    void merge_short(std::vector<int32_t>& ids, size_t first) const;
    void merge_long(std::vector<int32_t>& ids, size_t first) const;

    // Words that one token stands for, as one open-addressed table over one buffer.
    struct Whole {
        uint32_t begin = 0, length = 0;
        uint64_t hash = 0;
        int32_t id = -1;
    };
    const Whole* find_whole(std::string_view word) const;
    void remember_whole(const std::unordered_map<std::string, int32_t>& words, bool all);

    std::array<int32_t, 256> byte_ids_{};
    MergeTable merges_;
    std::vector<Whole> whole_ = std::vector<Whole>(1);
    std::string buffer_;
};

}  // namespace fucina
