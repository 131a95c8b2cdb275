#include "data/batch_loader.h"

#include <cmath>
#include <numeric>

#include "data/permutation.h"
#include "kernels/error.h"

namespace fucina {
namespace {

constexpr uint64_t kWhole = uint64_t{1} << 32;

// Of the first n indices, how many go to a part that gets share / 2^32 of them; the half in it puts
// a part's first turn in the middle of its period.
int64_t taken(int64_t n, uint64_t share) {
    return static_cast<int64_t>((static_cast<unsigned __int128>(n) * share + kWhole / 2) >> 32);
}

}  // namespace

BatchLoader::BatchLoader(std::vector<BlendSource> sources, const LoaderOptions& options)
    : options_(options) {
    FUCINA_CHECK(!sources.empty(), "a loader needs at least one source");
    double rest = 0;
    for (const BlendSource& source : sources) {
        FUCINA_CHECK(std::isfinite(source.weight) && source.weight > 0, "weight ", source.weight);
        rest += source.weight;
    }
    for (BlendSource& source : sources) {
        const double share = std::min(1.0, source.weight / rest);
        shares_.push_back(static_cast<uint64_t>(std::llround(share * 0x1p32)));
        rest -= source.weight;
        sources_.emplace_back(std::move(source.store), options.sequence_length);
    }
    shares_.back() = kWhole;
}

SequencePlace BatchLoader::place(int64_t index) const {
    FUCINA_CHECK(index >= 0, "sequence ", index);
    // Each source takes its share of the indices that the sources before it leave over.
    size_t s = 0;
    for (; taken(index + 1, shares_[s]) == taken(index, shares_[s]); ++s) {
        index -= taken(index, shares_[s]);
    }
    const int64_t turn = taken(index, shares_[s]), sequences = sources_[s].sequences();
    SequencePlace place{
        .source = static_cast<int64_t>(s), .epoch = turn / sequences, .pack = turn % sequences};
    if (options_.shuffle) {
        place.pack = permuted(place.pack, sequences,
                              {.seed = options_.seed,
                               .purpose = RandomPurpose::data_order,
                               .stream = static_cast<uint32_t>(place.source),
                               .step = static_cast<uint32_t>(place.epoch)});
    }
    return place;
}

PackedSequences BatchLoader::load(std::span<const SampleRange> ranges) const {
    PackedSequences out;
    for (const SampleRange& range : ranges) {
        for (int64_t i = range.first; i < range.first + range.count; ++i) {
            const SequencePlace at = place(i);
            source(at.source).append(at.pack, out);
        }
    }
    return out;
}

void Prefetcher::prefetch(std::vector<SampleRange> ranges) {
    ranges_ = std::move(ranges);
    pending_ = std::async(std::launch::async,
                          [&loader = loader_, ranges = ranges_] { return loader.load(ranges); });
}

PackedSequences Prefetcher::load(std::span<const SampleRange> ranges) {
    if (pending_.valid() && std::ranges::equal(ranges, ranges_)) return pending_.get();
    return loader_.load(ranges);
}

}  // namespace fucina
