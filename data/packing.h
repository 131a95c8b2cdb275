// Packs: sequences of at most sequence_length tokens, made of whole pieces of documents in file
// order. A document longer than sequence_length is cut into pieces of exactly that many tokens (the
// last one is shorter); pieces are laid end to end, and a new pack begins where the next piece does
// not fit. Every token is in exactly one pack, and a pack is one contiguous range of the store.
// Each piece is an attention document of its own: positions restart, labels stay within it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "data/token_store.h"

namespace fucina {

// The label where there is no next token (the last token of a piece), or it is not supervised.
inline constexpr int32_t kNoLabel = -100;

// A run of whole sequences, flat.
struct PackedSequences {
    std::vector<int32_t> ids, positions, labels;  // [T]
    std::vector<int64_t> cu_seqlens{0};           // [pieces + 1] token where each piece begins
    std::vector<int64_t> sequence_offsets{0};     // [sequences + 1] token where each pack begins

    int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
    int64_t sequences() const { return static_cast<int64_t>(sequence_offsets.size()) - 1; }
    int64_t pieces() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
    int64_t label_count() const {  // labels that are not kNoLabel
        return tokens() - std::ranges::count(labels, kNoLabel);
    }
};

// The packs of one store. 16 bytes of memory a pack; the tokens stay on disk.
class PackedStore {
  public:
    PackedStore(std::shared_ptr<const TokenStore> store, int64_t sequence_length);

    const TokenStore& store() const { return *store_; }
    int64_t sequences() const { return static_cast<int64_t>(starts_.size()) - 1; }
    // Supervised tokens that follow another one in their piece: what is predicted.
    int64_t labels() const { return labels_; }
    int64_t cut_documents() const { return cut_documents_; }  // longer than a sequence
    int64_t tokens(int64_t i) const {
        const auto pack = static_cast<size_t>(i);
        return starts_[pack + 1].token - starts_[pack].token;
    }
    // Appends pack i, in [0, sequences()). Reading a store once, in order, is i = 0, 1, 2, ...
    void append(int64_t i, PackedSequences& out) const;

  private:
    struct Start {
        int64_t token = 0, document = 0;  // first token of the pack, and the document it is in
    };
    // Of the piece of so many tokens, without its first one.
    int64_t supervised_behind(int64_t first, int64_t length) const;

    std::shared_ptr<const TokenStore> store_;
    int64_t sequence_length_;
    int64_t labels_ = 0, cut_documents_ = 0;
    std::vector<Start> starts_;  // [sequences + 1]
};

}  // namespace fucina
