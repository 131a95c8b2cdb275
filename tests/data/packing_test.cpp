// Packing: every token once, pieces whole, labels and positions within a piece.
#include "data/packing.h"

#include <gtest/gtest.h>

#include <numeric>

#include "kernels/philox.h"

namespace fucina {
namespace {

// Documents of the given lengths whose ids count up from 0 over the whole store.
std::shared_ptr<const TokenStore> counting_store(const std::vector<int64_t>& lengths) {
    std::vector<std::vector<int32_t>> documents;
    int32_t next = 0;
    for (const int64_t length : lengths) {
        documents.emplace_back(static_cast<size_t>(length));
        for (int32_t& id : documents.back()) id = next++;
    }
    return std::make_shared<TokenStore>(TokenStore::from_lists(documents, 1 << 30, "counting"));
}

PackedSequences all_of(const PackedStore& packs) {
    PackedSequences out;
    for (int64_t i = 0; i < packs.sequences(); ++i) packs.append(i, out);
    return out;
}

TEST(Packing, CutsAndPacksAsDocumented) {
    // 10 tokens of length 4: pieces 4, 4, 2; the 2 fits beside the next document's 2, not its 3.
    const PackedStore packs(counting_store({10, 2, 3, 0, 1, 4}), 4);
    const PackedSequences all = all_of(packs);
    EXPECT_EQ(all.sequence_offsets, (std::vector<int64_t>{0, 4, 8, 12, 16, 20}));
    EXPECT_EQ(all.cu_seqlens, (std::vector<int64_t>{0, 4, 8, 10, 12, 15, 16, 20}));
    EXPECT_EQ(all.positions,
              (std::vector<int32_t>{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 1, 0, 1, 2, 0, 0, 1, 2, 3}));
    const int32_t no = kNoLabel;
    EXPECT_EQ(all.labels, (std::vector<int32_t>{1,  2,  3,  no, 5,  6,  7,  no, 9,  no,
                                                11, no, 13, 14, no, no, 17, 18, 19, no}));
    EXPECT_EQ(all.label_count(), 13);
}

TEST(Packing, LabelsAreSupervisedTokensBehindAnotherOne) {
    // Pieces of 4: {0 1 2 3} {4 5} {6 7}; supervised are 1, 3, 4, 5 and 6, of which 4 and 6 have
    // nothing before them.
    const auto store = std::make_shared<TokenStore>(TokenStore::from_lists(
        {{0, 1, 2, 3, 4, 5}, {6, 7}}, 8, "marked", {0, 1, 0, 1, 1, 1, 1, 0}));
    const PackedStore packs(store, 4);
    const PackedSequences all = all_of(packs);
    const int32_t no = kNoLabel;
    EXPECT_EQ(all.labels, (std::vector<int32_t>{1, no, 3, no, 5, no, no, no}));
    EXPECT_EQ(all.label_count(), 3);
    EXPECT_EQ(packs.labels(), 3);
}

TEST(Packing, EqualLengthDocumentsAreTheSequences) {
    const PackedStore packs(counting_store({8, 8, 8}), 8);
    ASSERT_EQ(packs.sequences(), 3);
    for (int32_t d = 0; d < 3; ++d) {
        PackedSequences one;
        packs.append(d, one);
        std::vector<int32_t> expected(8);
        std::iota(expected.begin(), expected.end(), d * 8);
        EXPECT_EQ(one.ids, expected);
        EXPECT_EQ(one.cu_seqlens, (std::vector<int64_t>{0, 8}));
    }
}

// The same packs by the plain definition, document by document.
PackedSequences by_definition(const std::vector<int64_t>& lengths, int64_t sequence_length) {
    PackedSequences out;
    int32_t next = 0;
    for (const int64_t length : lengths) {
        for (int64_t left = length; left > 0;) {
            const int64_t piece = std::min(left, sequence_length);
            if (out.tokens() + piece - out.sequence_offsets.back() > sequence_length) {
                out.sequence_offsets.push_back(out.tokens());
            }
            for (int64_t t = 0; t < piece; ++t) {
                out.ids.push_back(next++);
                out.positions.push_back(static_cast<int32_t>(t));
                out.labels.push_back(t + 1 < piece ? next : kNoLabel);
            }
            out.cu_seqlens.push_back(out.tokens());
            left -= piece;
        }
    }
    out.sequence_offsets.push_back(out.tokens());
    return out;
}

TEST(Packing, RandomDocumentsFollowTheDefinition) {
    for (uint64_t seed = 0; seed < 60; ++seed) {
        const RandomKey key{.seed = seed};
        const auto draw = [&](uint64_t index, uint32_t below) {
            return static_cast<int64_t>(random_block(key, index)[0] % below);
        };
        const int64_t sequence_length = 1 + draw(0, 40);
        std::vector<int64_t> lengths{1};
        for (uint64_t d = 1; d < 200; ++d) lengths.push_back(draw(d, d % 7 == 0 ? 150 : 20));
        const PackedSequences all = all_of(PackedStore(counting_store(lengths), sequence_length));
        const PackedSequences expected = by_definition(lengths, sequence_length);
        EXPECT_EQ(all.ids, expected.ids);
        EXPECT_EQ(all.positions, expected.positions);
        EXPECT_EQ(all.labels, expected.labels);
        EXPECT_EQ(all.cu_seqlens, expected.cu_seqlens);
        EXPECT_EQ(all.sequence_offsets, expected.sequence_offsets);
    }
}

TEST(Packing, ManyDocumentsCrossTheChunksOfOffsets) {
    std::vector<int64_t> lengths(200000, 1);
    lengths[65535] = lengths[65536] = 5;
    const PackedSequences all = all_of(PackedStore(counting_store(lengths), 3));
    const PackedSequences expected = by_definition(lengths, 3);
    EXPECT_EQ(all.cu_seqlens, expected.cu_seqlens);
    EXPECT_EQ(all.sequence_offsets, expected.sequence_offsets);
}

}  // namespace
}  // namespace fucina
