// Guards against rows of tokens that get lost, or that a rank has too many of at a time, where
// routing is uneven.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/moe.h"
#include "parallel/thread_communicator.h"
#include "parallel/token_dispatcher.h"

namespace fucina {
namespace {

constexpr int64_t kExperts = 7, kTopK = 2;

// Half of the tokens choose the first two experts, the others any.
TokenMap uneven_map(int64_t tokens, int rank) {
    const Tensor indices = Tensor::empty({tokens, kTopK}, DType::i32);
    for (int64_t t = 0; t < tokens; ++t) {
        const int32_t first = t % 2 == 0 ? 0 : static_cast<int32_t>((t + rank) % (kExperts - 1));
        indices.row<int32_t>(t)[0] = first;
        indices.row<int32_t>(t)[1] = first + 1;
    }
    return ops::make_token_map(kHost, indices, kExperts,
                               tensor_of(kHost, std::vector<int64_t>{0, tokens / 3, tokens}));
}

// One number a slot, of its rank.
Tensor numbered(const TokenMap& map, const Tensor& slots, int rank) {
    const HostValues<int64_t> offsets(kHost, map.expert_offsets);
    std::vector<float> values;
    const HostValues<int32_t> own_slots(kHost, slots);
    for (const int32_t slot : own_slots.span()) {
        const auto expert =
            std::ranges::upper_bound(offsets.span(), slot) - offsets.span().begin() - 1;
        values.push_back(static_cast<float>(1000 * expert + 100 * rank + slot));
    }
    return tensor_of(kHost, values).view({slots.size(), 1});
}

TEST(TokenDispatcher, CutsWavesOfWholeExperts) {
    using Rows = std::vector<int64_t>;
    EXPECT_EQ(cut_waves(Rows{}, 5), (Rows{0, 0}));
    EXPECT_EQ(cut_waves(Rows{2, 3}, 5), (Rows{0, 2}));
    EXPECT_EQ(cut_waves(Rows{2, 3, 1}, 5), (Rows{0, 2, 3}));
    EXPECT_EQ(cut_waves(Rows{9, 0, 9}, 5), (Rows{0, 2, 3}));
    EXPECT_EQ(cut_waves(Rows{0, 9, 1, 1}, 5), (Rows{0, 2, 4}));
    EXPECT_EQ(cut_waves(Rows{0, 0, 0}, 1), (Rows{0, 3}));
}

TEST(TokenDispatcher, WavesTakeEverySlotOnceAndHoldNoMoreThanTheirRows) {
    for (const int64_t rows : {int64_t{1}, int64_t{9}, int64_t{14}})
        for (const int ranks : {2, 3, 4})
            run_on_threads(ranks, [&](Communicator& world) {
                // One rank without tokens.
                const int64_t tokens = world.rank() == 1 ? 0 : 20 + 3 * world.rank();
                const TokenMap map = uneven_map(tokens, world.rank());
                const TokenDispatcher dispatcher(world, kExperts, 1, rows);
                const auto waves = dispatcher.plan(map, 2, ExpertSums::by_source);
                std::vector<int64_t> count{std::ssize(*waves)}, most = count;
                world.all_reduce_max(most);
                EXPECT_EQ(count, most);
                EXPECT_GT(waves->size(), 1u);
                std::vector<int32_t> taken;
                for (const TokenExchange& wave : *waves) {
                    const HostValues<int32_t> slots(kHost, wave.slots);
                    taken.insert(taken.end(), slots.span().begin(), slots.span().end());
                    const HostValues<int64_t> offsets(kHost, wave.experts.expert_offsets);
                    int64_t with_rows = 0;
                    for (size_t e = 0; e + 1 < offsets.size(); ++e)
                        with_rows += offsets[e + 1] > offsets[e];
                    EXPECT_TRUE(wave.rows() <= rows || with_rows == 1) << wave.rows();
                    const Tensor sent = numbered(map, wave.slots, world.rank());
                    const Tensor back = dispatcher.combine(wave, dispatcher.dispatch(wave, sent));
                    for (int64_t i = 0; i < sent.rows(); ++i)
                        EXPECT_EQ(back.data<float>()[i], sent.data<float>()[i]);
                }
                std::ranges::sort(taken);
                ASSERT_EQ(std::ssize(taken), map.slots());
                for (size_t i = 0; i < taken.size(); ++i)
                    EXPECT_EQ(taken[i], static_cast<int32_t>(i));
            });
}

TEST(TokenDispatcher, RowsAreThoseOfTheirExpert) {
    run_on_threads(3, [&](Communicator& world) {
        const TokenMap map = uneven_map(30, world.rank());
        const TokenDispatcher dispatcher(world, kExperts, 1, 1);
        const int64_t first = kExperts * world.rank() / world.size();
        const auto waves = dispatcher.plan(map, 2, ExpertSums::together);
        for (const TokenExchange& wave : *waves) {
            const Tensor rows = dispatcher.dispatch(wave, numbered(map, wave.slots, world.rank()));
            const HostValues<int64_t> offsets(kHost, wave.experts.expert_offsets);
            const HostValues<int32_t> row_of(kHost, wave.experts.slot_token);
            for (size_t e = 0; e + 1 < offsets.size(); ++e)
                for (int64_t s = offsets[e]; s < offsets[e + 1]; ++s)
                    EXPECT_EQ(
                        static_cast<int64_t>(rows.data<float>()[row_of[static_cast<size_t>(s)]]) /
                            1000,
                        first + static_cast<int64_t>(e));
        }
    });
}

TEST(TokenDispatcher, EvenRoutingIsOneWave) {
    run_on_threads(2, [&](Communicator& world) {
        const TokenDispatcher dispatcher(world, kExperts);
        const auto waves = dispatcher.plan(uneven_map(30, world.rank()), 2, ExpertSums::together);
        EXPECT_TRUE(waves->size() == 1 && waves->front().only);
    });
}

}  // namespace
}  // namespace fucina
