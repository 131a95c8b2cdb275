// TokenBatch: the tokens of one pass, flat, with the boundaries of documents, sequences and grains.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace fucina {

// A run of whole sequences. A sequence is a pack of documents (or pieces of them) of at most
// data.sequence_length tokens.
struct TokenBatch {
    std::vector<int32_t> ids, positions,
        labels;  // [T]; positions restart with each document; kIgnoreLabel: no label
    std::vector<int64_t> cu_seqlens{0};        // [documents + 1]
    std::vector<int64_t> sequence_offsets{0};  // [sequences + 1]
    std::vector<int64_t> grain_offsets{0};     // [grains + 1], each a boundary of sequences
    int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

// One document each, one sequence each, one grain each; a label is the next token, the last of a
// document has none.
TokenBatch make_batch(std::span<const std::vector<int32_t>> documents);

int64_t count_labels(const TokenBatch& batch);

}  // namespace fucina
