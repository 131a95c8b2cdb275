// Clusters: multicast loads, arrivals at another block's mbarrier and the cluster's barrier,
// correct and broken.
#include <gtest/gtest.h>

#include "tests/simt/every_order.h"
#include "tests/simt/executor.h"
#include "tests/simt/hopper_kernels.h"

namespace fucina::simt {
namespace {

using cuda::kRounds;
using cuda::kSharingBlocks;
using cuda::kTable;
using cuda::Sharing;

class Cluster : public testing::TestWithParam<Options> {
  protected:
    std::string run(Sharing fault) {
        return message_of([&] { cuda::share_tables(fault, in_, out_.data()); });
    }

    OrderScope scope_{GetParam()};
    alignas(16) inline static uint16_t in_[kRounds * kTable];
    std::vector<uint32_t> out_ = std::vector<uint32_t>(kSharingBlocks * kTable);
};
INSTANTIATE_TEST_SUITE_P(Simt, Cluster, testing::ValuesIn(every_order()), order_name);

TEST_P(Cluster, BlocksFillEachOther) {
    for (size_t i = 0; i < std::size(in_); ++i) in_[i] = static_cast<uint16_t>(i * 31 + i / 97);
    EXPECT_EQ(run(Sharing::none), "");
    for (size_t block = 0; block < kSharingBlocks; ++block)
        for (size_t i = 0; i < kTable; ++i) {
            uint32_t want = block % 2;
            for (size_t round = 0; round < kRounds; ++round) want += in_[round * kTable + i];
            ASSERT_EQ(out_[block * kTable + i], want) << "block " << block << " element " << i;
        }
}

TEST_P(Cluster, NamesEveryInjectedBug) {
    const auto named = [&](Sharing fault, const char* part) {
        const std::string message = run(fault);
        EXPECT_NE(message.find(part), std::string::npos)
            << "fault " << static_cast<int>(fault) << ": '" << message << "' lacks '" << part
            << "'";
        EXPECT_EQ(run(Sharing::none), "") << "after fault " << static_cast<int>(fault);
    };
    named(Sharing::own_block_alone, "bytes missing");
    named(Sharing::no_such_block, "block 2 of the cluster at cluster_kernel.cu:");
    if (!kRaceCheck) return;
    named(Sharing::no_sync_after_init, "mbarrier");
    named(Sharing::exits_early, "ended");
    named(Sharing::frees_own_slot_alone, "tensor_load cluster_kernel.cu:");
    named(Sharing::expects_half, "of shared bytes");
}

}  // namespace
}  // namespace fucina::simt
