// XXH3 64 of bytes that come in pieces.
#pragma once
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/file.h"

namespace fucina {

class StreamingHash {
  public:
    StreamingHash() : state_(XXH3_createState(), XXH3_freeState) {
        XXH3_64bits_reset(state_.get());
    }
    void add(std::span<const std::byte> bytes) {
        XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
    }
    uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

  private:
    std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_;
};

// Of bytes [offset, offset + count) of a file.
inline uint64_t hash_range(const InputFile& file, int64_t offset, int64_t count) {
    constexpr int64_t kPiece = int64_t{1} << 20;  // stays in cache between read and hash
    StreamingHash hash;
    std::vector<std::byte> piece;
    for (int64_t done = 0; done < count; done += std::ssize(piece)) {
        piece.resize(static_cast<size_t>(std::min(kPiece, count - done)));
        file.read(offset + done, piece);
        hash.add(piece);
    }
    return hash.value();
}

}  // namespace fucina
