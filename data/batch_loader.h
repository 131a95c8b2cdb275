// Packed sequences for training: the sequence with global index i is a function of the sources, the
// options and i alone. So any rank asks for its own part, and the position of a run is one number.
//
// Blend: sources share the indices by weight; among the first n sequences each has its share of n
// to within half a sequence per source. Order: sequences of a source come in epochs; each epoch is
// a new random permutation of all of them (or their order in the file). Epochs repeat without end.
#pragma once
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "data/packing.h"

namespace fucina {

struct BlendSource {
    std::shared_ptr<const TokenStore> store;
    double weight = 1;  // > 0, relative to the other sources
};

struct LoaderOptions {
    int64_t sequence_length = 0;  // tokens, at least 1
    bool shuffle = true;
    uint64_t seed = 0;
};

struct SampleRange {
    int64_t first = 0, count = 0;
    bool operator==(const SampleRange&) const = default;
};

// Where a global index leads.
struct SequencePlace {
    int64_t source = 0, epoch = 0;
    int64_t pack = 0;  // of PackedStore
};

class BatchLoader {
  public:
    BatchLoader(std::vector<BlendSource> sources, const LoaderOptions& options);

    // The sequences of the ranges, one after the other. Threads may call it at the same time.
    PackedSequences load(std::span<const SampleRange> ranges) const;
    PackedSequences load(int64_t first, int64_t count) const {
        const SampleRange range{first, count};
        return load({&range, 1});
    }

    SequencePlace place(int64_t index) const;
    int64_t tokens(int64_t index) const {
        const SequencePlace at = place(index);
        return source(at.source).tokens(at.pack);
    }
    const PackedStore& source(int64_t i) const { return sources_[static_cast<size_t>(i)]; }
    int64_t sources() const { return static_cast<int64_t>(sources_.size()); }
    const LoaderOptions& options() const { return options_; }
    // Of each source, of what the sources before it leave over, times 2^32.
    const std::vector<uint64_t>& shares() const { return shares_; }

  private:
    LoaderOptions options_;
    std::vector<PackedStore> sources_;
    std::vector<uint64_t> shares_;  // of what the sources before leave over, times 2^32
};

// Prepares the next ranges on a thread of its own while the caller works on these.
class Prefetcher {
  public:
    explicit Prefetcher(const BatchLoader& loader) : loader_(loader) {}

    // Starts loading in the background; what still waits to be fetched is dropped.
    void prefetch(std::vector<SampleRange> ranges);
    // What was prefetched if it is this (its exception, if it failed), else loaded now.
    PackedSequences load(std::span<const SampleRange> ranges);

  private:
    const BatchLoader& loader_;
    std::vector<SampleRange> ranges_;
    std::future<PackedSequences> pending_;
};

}  // namespace fucina
