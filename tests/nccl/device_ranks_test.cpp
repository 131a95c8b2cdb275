// Which ranks NCCL connects, which of their calls, and that the ledger still watches all of them.
#include "parallel/device_ranks.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/error.h"
#include "parallel/host_name.h"
#include "parallel/ledger_communicator.h"
#include "parallel/thread_communicator.h"
#include "tests/nccl/model.h"
#include "tests/parallel/collective_cases.h"

namespace fucina {
namespace {

using Calls = std::vector<std::string>;

// body(ranks, note) on threads, each with a ledger around its communicator.
template <class Body>
void run_with_ledgers(int ranks, const Body& body) {
    run_on_threads(ranks, [&](Communicator& threads) {
        LedgerCommunicator ledger(threads.split(0));
        const DeviceRanks made = make_device_ranks(ledger);
        body(*made.ranks, made.note);
        threads.barrier();
    });
}

Calls calls_with(const std::string& name) {
    Calls calls = nccl_model::calls(0);
    std::erase_if(calls, [&](const std::string& call) { return call.find(name) != 0; });
    return calls;
}

TEST(DeviceRanks, CollectivesOfRanksWithGpusOfTheirOwnGoOverNccl) {
    nccl_model::reset(4);
    run_with_ledgers(4, [](Communicator& ranks, const std::string& note) {
        EXPECT_EQ(note, "");
        EXPECT_FALSE(ranks.exec().on_host());
        check_collectives(ranks);
        check_reducer(ranks, 13, 4000);
    });
    EXPECT_EQ(nccl_model::faults(), Calls());
    EXPECT_GT(calls_with("ncclAllGather").size(), 0u);
    EXPECT_GT(calls_with("ncclBroadcast").size(), 0u);
    EXPECT_GT(calls_with("ncclCommSplit").size(), 0u);
    // The ledger's numbers, and other integers of the host.
    EXPECT_EQ(calls_with("ncclAllReduce"), Calls());
}

// Else a stage of a pipeline would wait for the receiver of what it sends.
TEST(DeviceRanks, MessagesDoNot) {
    nccl_model::reset(2);
    run_with_ledgers(2, [](Communicator& ranks, const std::string&) {
        std::vector<std::byte> data(1000), other(1000);
        const int peer = 1 - ranks.rank();
        const auto sent = ranks.start_send(data, peer, 1);
        const auto received = ranks.start_receive(other, peer, 1);
        sent->wait();
        received->wait();
    });
    EXPECT_EQ(calls_with("ncclSend"), Calls());
}

TEST(DeviceRanks, RanksThatShareAGpuSayHowMany) {
    nccl_model::reset(2);
    run_with_ledgers(3, [](Communicator& ranks, const std::string& note) {
        EXPECT_EQ(note, concat("NOTE: the 3 ranks of ", host_name(),
                               " share 2 GPUs, and NCCL takes one rank a GPU: their messages go "
                               "through the host's memory, which is slow; start 2 there"));
        check_collectives(ranks);
    });
    EXPECT_EQ(nccl_model::calls(0), Calls());
}

TEST(DeviceRanks, OneRankNeedsNoNccl) {
    nccl_model::reset(1);
    run_with_ledgers(1, [](Communicator& ranks, const std::string& note) {
        EXPECT_EQ(note, "");
        check_collectives(ranks);
    });
    EXPECT_EQ(nccl_model::calls(0), Calls());
}

TEST(DeviceRanks, RanksInDifferentCollectivesAreNamed) {
    nccl_model::reset(2);
    run_with_ledgers(2, [](Communicator& ranks, const std::string&) {
        std::vector<std::byte> own(8), all(16);
        std::string text;
        try {
            if (ranks.rank() == 0)
                ranks.all_gather(own, all);
            else
                ranks.barrier();
        } catch (const Error& error) {
            text = error.what();
        }
        EXPECT_NE(text.find("all_gather #1 of 8 bytes"), std::string::npos) << text;
    });
}

}  // namespace
}  // namespace fucina
