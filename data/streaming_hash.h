// XXH3 64 of bytes that come in pieces.
#pragma once
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

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

}  // namespace fucina
