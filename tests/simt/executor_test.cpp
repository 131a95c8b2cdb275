// The executor's rules: correct kernels give CUDA's results under every order; each injected bug is
// named. The race build (the default) must name every one of them in every order.
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "tests/simt/every_order.h"
#include "tests/simt/example_kernels.h"
#include "tests/simt/executor.h"

namespace fucina::simt {
namespace {

std::vector<float> some_values(int count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>((i * 37 + 11) % 101) - 50.0f;
    return values;
}

class EveryOrder : public testing::TestWithParam<Options> {
  protected:
    OrderScope scope_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Simt, EveryOrder, testing::ValuesIn(every_order()), order_name);

TEST_P(EveryOrder, TransposesThroughATile) {
    const std::vector<float> in = some_values(kTile * kTile);
    std::vector<float> out(in.size());
    transpose_tile(Flaw::none, in.data(), out.data());
    for (size_t i = 0; i < kTile; ++i)
        for (size_t j = 0; j < kTile; ++j) ASSERT_EQ(out[j * kTile + i], in[i * kTile + j]);
}

TEST_P(EveryOrder, SumsTwiceThroughOneScratch) {
    const std::vector<float> in = some_values(kSumThreads);
    std::vector<float> out(2);
    two_sums(Flaw::none, in.data(), out.data());
    EXPECT_EQ(out[0], std::accumulate(in.begin(), in.end(), 0.0f));
    EXPECT_EQ(out[1], std::inner_product(in.begin(), in.end(), in.begin(), 0.0f));
}

TEST_P(EveryOrder, SwapsThroughAWarpBarrier) {
    const std::vector<float> in = some_values(32);
    std::vector<float> out(32);
    swap_neighbours(Flaw::none, in.data(), out.data());
    for (size_t i = 0; i < 32; ++i) ASSERT_EQ(out[i], in[i ^ 1]);
}

// Expected values are from the CUDA programming guide's description of each operation.
TEST_P(EveryOrder, WarpOperationsGiveWhatCudaDefines) {
    std::vector<int> out(7 * 32);
    warp_operations(Flaw::none, out.data());
    int multiples = 0;
    for (int lane = 0; lane < 32; lane += 3) multiples |= 1 << lane;
    for (int lane = 0; lane < 32; ++lane) {
        const auto row = [&](int i) { return out[static_cast<size_t>(i * 32 + lane)]; };
        EXPECT_EQ(row(0), 50);
        EXPECT_EQ(row(1), 10 * (lane % 16 < 3 ? lane : lane - 3));
        EXPECT_EQ(row(2), 10 * (lane % 16 > 12 ? lane : lane + 3));
        EXPECT_EQ(row(3), 10 * (lane ^ 7));
        EXPECT_EQ(row(4), multiples);
        EXPECT_EQ(row(5), 1);
        EXPECT_EQ(row(6), lane < 16 ? 1 : 17);
    }
}

TEST_P(EveryOrder, BlockVotes) {
    std::vector<int> out(5);
    votes(5, out.data());
    for (const int value : out) EXPECT_EQ(value, 32 * 4 + 2);
}

TEST_P(EveryOrder, DynamicMemoryIsAlignedAsPromisedAndNoBetter) {
    std::vector<int> out(2);
    if (kRaceCheck) {
        EXPECT_NE(message_of([&] { dynamic_memory(100000, out.data()); }).find("never written"),
                  std::string::npos);
        return;
    }
    dynamic_memory(100000, out.data());
    EXPECT_EQ(out[0], 1);
    EXPECT_EQ(out[1], 1);
}

struct Injected {
    Flaw flaw;
    bool by_schedule;  // only the race build is sure to see it
    const char* message;
};

std::string run(Flaw flaw) {
    const std::vector<float> in = some_values(kTile * kTile);
    std::vector<float> out(in.size());
    std::vector<int> integers(7 * 32);
    switch (flaw) {
        case Flaw::no_barrier_before_transposed_read:
            return message_of([&] { transpose_tile(flaw, in.data(), out.data()); });
        case Flaw::syncwarp_missing:
            return message_of([&] { swap_neighbours(flaw, in.data(), out.data()); });
        case Flaw::shuffle_by_half_a_warp:
        case Flaw::shuffle_from_outside_the_mask:
        case Flaw::two_operations_of_one_warp:
            return message_of([&] { warp_operations(flaw, integers.data()); });
        default:
            return message_of([&] { two_sums(flaw, in.data(), out.data()); });
    }
}

TEST_P(EveryOrder, NamesEveryInjectedBug) {
    const Injected bugs[] = {
        {Flaw::no_barrier_before_transposed_read, true, "race on byte"},
        {Flaw::scratch_reused_without_barrier, true, "is not ordered after a read by thread"},
        {Flaw::no_barrier_after_block_sum_store, true, "of shared partial"},
        {Flaw::shared_index_plus_one, true, "offset 16 of shared partial, which has 16"},
        {Flaw::read_of_unwritten, true, "byte 0 of shared scratch, which was never written"},
        {Flaw::syncwarp_missing, true, "of shared values"},
        {Flaw::divergent_barrier, false, "divergent barriers"},
        {Flaw::two_barriers_of_one_block, false, "divergent barriers"},
        {Flaw::barrier_after_exit, false, "exited"},
        {Flaw::shuffle_by_half_a_warp, false, "exited"},
        {Flaw::shuffle_from_outside_the_mask, false, "reads lane 20, which is not in mask 0xffff"},
        {Flaw::two_operations_of_one_warp, false, "divergent warp"},
    };
    for (const Injected& bug : bugs) {
        if (bug.by_schedule && !kRaceCheck) continue;
        const std::string message = run(bug.flaw);
        EXPECT_NE(message.find(bug.message), std::string::npos)
            << "flaw " << static_cast<int>(bug.flaw) << ": '" << message << "'";
        EXPECT_NE(message.find("block (0,0,0)"), std::string::npos) << message;
        EXPECT_EQ(run(Flaw::none), "") << "after flaw " << static_cast<int>(bug.flaw);
    }
}

TEST_P(EveryOrder, NamesAnOverrun) {
    EXPECT_NE(message_of(overrun).find("of shared four, which has 16"), std::string::npos);
}

TEST_P(EveryOrder, NamesADeadlock) {
    const std::string message = message_of(circular_wait);
    const char* parts[] = {
        "block (0,0,0): deadlock: threads 32-47 at __shfl_sync example_kernels.cu:",
        " (lanes 0xffff of 0xffffffff arrived); ",
        "threads 0-31,48-63 at the barrier of example_kernels.cu:",
        " (48 of 64 arrived)",
    };
    for (const char* part : parts)
        EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks\n" << part;
}

TEST(Simt, RefusesWhatCudaRefuses) {
    EXPECT_EQ(message_of([] { launch_shape(3, 65535, 1, 0); }), "");
    EXPECT_NE(message_of([] { launch_shape(0, 1, 32, 0); }).find("empty grid"), std::string::npos);
    EXPECT_NE(message_of([] { launch_shape(1, 65536, 32, 0); }).find("65536"), std::string::npos);
    EXPECT_NE(message_of([] { launch_shape(1, 1, 1025, 0); }).find("1025"), std::string::npos);
    EXPECT_NE(message_of([] { launch_shape(1, 1, 32, 232449); }).find("232449"), std::string::npos);
}

}  // namespace
}  // namespace fucina::simt
