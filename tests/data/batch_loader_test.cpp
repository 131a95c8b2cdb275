// The loader: a pure function of the global index, an epoch is a permutation, blends keep their
// weights, and background loading changes nothing.
#include "data/batch_loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "data/permutation.h"
#include "kernels/error.h"

namespace fucina {
namespace {

// Documents of one sequence each, all ids of a document equal to base + its number.
std::shared_ptr<const TokenStore> numbered_store(int32_t count, int32_t base = 0) {
    std::vector<std::vector<int32_t>> documents;
    for (int32_t d = 0; d < count; ++d) documents.emplace_back(4, base + d);
    return std::make_shared<TokenStore>(TokenStore::from_lists(documents, 1 << 20, "numbered"));
}

std::vector<int32_t> documents_of(const PackedSequences& batch) {
    std::vector<int32_t> out;
    for (size_t i = 0; i < batch.ids.size(); i += 4) out.push_back(batch.ids[i]);
    return out;
}

TEST(BatchLoader, WithoutShuffleItIsTheOrderOfTheFile) {
    const BatchLoader loader({{numbered_store(5)}}, {.sequence_length = 4, .shuffle = false});
    EXPECT_EQ(documents_of(loader.load(0, 5)), (std::vector<int32_t>{0, 1, 2, 3, 4}));
    EXPECT_EQ(documents_of(loader.load(3, 6)), (std::vector<int32_t>{3, 4, 0, 1, 2, 3}));
    EXPECT_EQ(documents_of(loader.load(1000003, 1)), (std::vector<int32_t>{3}));
}

TEST(BatchLoader, EachEpochIsANewPermutation) {
    const BatchLoader loader({{numbered_store(101)}}, {.sequence_length = 4, .seed = 7});
    std::set<std::vector<int32_t>> orders;
    for (int64_t epoch = 0; epoch < 4; ++epoch) {
        auto order = documents_of(loader.load(epoch * 101, 101));
        orders.insert(order);
        std::sort(order.begin(), order.end());
        for (int32_t d = 0; d < 101; ++d) ASSERT_EQ(order[static_cast<size_t>(d)], d);
    }
    EXPECT_EQ(orders.size(), 4u);
    const BatchLoader again({{numbered_store(101)}}, {.sequence_length = 4, .seed = 7});
    EXPECT_EQ(documents_of(loader.load(50, 202)), documents_of(again.load(50, 202)));
    const BatchLoader other({{numbered_store(101)}}, {.sequence_length = 4, .seed = 8});
    EXPECT_NE(documents_of(loader.load(0, 101)), documents_of(other.load(0, 101)));
}

void append(PackedSequences& whole, const PackedSequences& part) {
    const int64_t base = whole.tokens();
    whole.ids.insert(whole.ids.end(), part.ids.begin(), part.ids.end());
    whole.labels.insert(whole.labels.end(), part.labels.begin(), part.labels.end());
    whole.positions.insert(whole.positions.end(), part.positions.begin(), part.positions.end());
    for (size_t i = 1; i < part.cu_seqlens.size(); ++i) {
        whole.cu_seqlens.push_back(base + part.cu_seqlens[i]);
    }
    for (size_t i = 1; i < part.sequence_offsets.size(); ++i) {
        whole.sequence_offsets.push_back(base + part.sequence_offsets[i]);
    }
}

TEST(BatchLoader, RanksPartsAndResumedPartsMakeTheWhole) {
    std::vector<std::vector<int32_t>> documents;
    for (int32_t d = 0; d < 300; ++d) {
        documents.emplace_back(1 + random_block({}, static_cast<uint64_t>(d))[0] % 25, d);
    }
    auto store = std::make_shared<TokenStore>(TokenStore::from_lists(documents, 1000, "ragged"));
    const BatchLoader loader({{store, 0.7}, {numbered_store(10, 500), 0.3}},
                             {.sequence_length = 16, .seed = 3});
    const PackedSequences whole = loader.load(5, 64);
    for (const int64_t part : {1, 2, 16, 32}) {
        const BatchLoader resumed({{store, 0.7}, {numbered_store(10, 500), 0.3}},
                                  {.sequence_length = 16, .seed = 3});
        PackedSequences joined;
        for (int64_t first = 5; first < 69; first += part)
            append(joined, resumed.load(first, part));
        EXPECT_EQ(joined.ids, whole.ids);
        EXPECT_EQ(joined.labels, whole.labels);
        EXPECT_EQ(joined.positions, whole.positions);
        EXPECT_EQ(joined.cu_seqlens, whole.cu_seqlens);
        EXPECT_EQ(joined.sequence_offsets, whole.sequence_offsets);
    }
}

TEST(BatchLoader, BlendKeepsTheWeightsAtEveryIndex) {
    const std::vector<double> weights = {5, 1, 0.25, 3};
    std::vector<BlendSource> sources;
    for (int32_t s = 0; s < 4; ++s) sources.push_back({numbered_store(7 + s), weights[s]});
    const BatchLoader loader(sources, {.sequence_length = 4, .shuffle = false});
    std::map<int64_t, int64_t> counts;
    for (int64_t i = 0; i < 20000; ++i) {
        const SequencePlace place = loader.place(i);
        const int64_t turn = counts[place.source]++;
        // Within its source, the sequences come one after the other.
        ASSERT_EQ(place.epoch, turn / (7 + place.source));
        ASSERT_EQ(place.pack, turn % (7 + place.source));
        for (int64_t s = 0; s < 4; ++s) {
            const double wanted = static_cast<double>(i + 1) * weights[s] / 9.25;
            // Half a sequence of rounding for each of the s + 1 splits; 1e-4 for shares of 2^-32.
            ASSERT_LE(std::abs(static_cast<double>(counts[s]) - wanted),
                      0.5 * static_cast<double>(s + 1) + 1e-4)
                << "source " << s << " at " << i;
        }
    }
}

TEST(Permutation, IsABijectionOfEverySize) {
    for (int64_t n = 1; n <= 300; ++n) {
        std::vector<bool> hit(static_cast<size_t>(n));
        for (int64_t i = 0; i < n; ++i) {
            const int64_t to = permuted(i, n, {.seed = 1});
            ASSERT_TRUE(to >= 0 && to < n && !hit[static_cast<size_t>(to)]) << n;
            hit[static_cast<size_t>(to)] = true;
        }
    }
    const int64_t large = (int64_t{1} << 40) + 12345;
    std::set<int64_t> images;
    for (int64_t i = 0; i < 1000; ++i) images.insert(permuted(i, large, {.seed = 1}));
    EXPECT_EQ(images.size(), 1000u);
    EXPECT_LT(*images.rbegin(), large);
    EXPECT_GT(*images.rbegin(), large / 2);
}

TEST(Permutation, EveryPlaceIsEquallyLikely) {
    // Chi-squared over 49 cells of the table (index, image), 36 degrees of freedom: above 75 has
    // probability 1e-4 for true permutations; the seeds are fixed, so this cannot flicker.
    constexpr int64_t n = 7, draws = 7000;
    int64_t table[n][n] = {};
    for (uint64_t seed = 0; seed < draws; ++seed) {
        for (int64_t i = 0; i < n; ++i) ++table[i][permuted(i, n, {.seed = seed})];
    }
    double chi_squared = 0;
    for (const auto& row : table) {
        for (const int64_t count : row) {
            chi_squared += std::pow(static_cast<double>(count) - draws / n, 2) / (draws / n);
        }
    }
    EXPECT_LT(chi_squared, 75);
}

std::vector<SampleRange> range(int64_t first, int64_t count) {
    return {{first, count}};
}

TEST(Prefetcher, GivesTheSameAndPassesErrorsOn) {
    const BatchLoader loader({{numbered_store(50)}}, {.sequence_length = 4});
    Prefetcher prefetcher(loader);
    for (int64_t step = 0; step < 20; ++step) {
        const auto batch = prefetcher.load(range(step * 8, 8));
        prefetcher.prefetch(range((step + 1) * 8, 8));
        EXPECT_EQ(batch.ids, loader.load(step * 8, 8).ids);
    }
    prefetcher.prefetch(range(1, 1));
    EXPECT_EQ(prefetcher.load(range(2, 1)).ids,
              loader.load(2, 1).ids);  // another range than prefetched

    auto bad = std::make_shared<TokenStore>(TokenStore::from_lists({{1, 2, 900}}, 256, "bad"));
    const BatchLoader failing({{bad}}, {.sequence_length = 4});
    Prefetcher failing_prefetcher(failing);
    failing_prefetcher.prefetch(range(0, 1));
    try {
        failing_prefetcher.load(range(0, 1));
        FAIL() << "no error";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::data);
        EXPECT_STREQ(error.what(), "bad: token 2: id 900 is beyond the vocabulary of 256");
    }
}

}  // namespace
}  // namespace fucina
