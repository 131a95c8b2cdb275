// What only the model can show: what waits for what, which calls are made, and what is said when
// they fail.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "kernels/error.h"
#include "parallel/nccl_communicator.h"
#include "parallel/thread_communicator.h"
#include "tests/nccl/model.h"
#include "tests/parallel/collective_cases.h"

namespace fucina {
namespace {

using Body = std::function<void(Communicator&)>;
using Calls = std::vector<std::string>;

std::unique_ptr<Communicator> start(Communicator& threads, int device, cudaStream_t compute) {
    return make_nccl_communicator(threads, device, compute);
}

// What the ranks' bodies end with, by rank; "" is a good end.
std::vector<std::string> ends(int ranks, const Body& body) {
    std::vector<std::string> texts(static_cast<size_t>(ranks));
    run_on_threads(ranks, [&](Communicator& threads) {
        const auto nccl = start(threads, threads.rank(), nullptr);
        try {
            body(*nccl);
        } catch (const Error& error) {
            texts[static_cast<size_t>(threads.rank())] = error.what();
        }
        threads.barrier();  // nobody leaves before all have ended
    });
    return texts;
}

class NcclModel : public testing::Test {
  protected:
    void SetUp() override { nccl_model::reset(4); }
};

TEST_F(NcclModel, AnExchangeIsOneGroupWithoutOwnAndEmptyBlocks) {
    const auto texts = ends(3, [](Communicator& nccl) {
        const std::vector<int64_t> counts[] = {{5, 7, 0}, {7, 1, 2}, {0, 2, 3}};
        const auto& own = counts[static_cast<size_t>(nccl.rank())];
        std::vector<std::byte> in(12), out(12);
        nccl.all_to_all_v(in, own, out, own);
    });
    EXPECT_EQ(texts, std::vector<std::string>(3));
    const Calls calls = nccl_model::calls(1);
    EXPECT_EQ(Calls(calls.begin() + 1, calls.end()),
              (Calls{"ncclGroupStart", "ncclSend 7 to 0", "ncclRecv 7 from 0", "ncclSend 2 to 2",
                     "ncclRecv 2 from 2", "ncclGroupEnd", "ncclCommDestroy"}));
    EXPECT_EQ(nccl_model::faults(), Calls());
}

TEST_F(NcclModel, WhatIsGivenToNcclWaitsForTheComputeStream) {
    std::atomic<bool> ended = false;
    std::byte got{};
    run_on_threads(2, [&](Communicator& threads) {
        cudaStream_t compute = nullptr;
        cudaSetDevice(threads.rank());
        cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking);
        void* memory = nullptr;
        cudaMalloc(&memory, 1);
        const std::span data(static_cast<std::byte*>(memory), 1);
        const auto nccl = start(threads, threads.rank(), compute);
        if (threads.rank() == 0)
            nccl_model::write_when_released(compute, data.data(), std::byte{7});
        threads.barrier();
        std::thread other;
        if (threads.rank() == 0)
            other = std::thread([&] {
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
                EXPECT_FALSE(ended) << "NCCL did not wait for what computes its data";
                nccl_model::release(compute);
            });
        nccl->broadcast(data, 0);
        ended = true;
        if (threads.rank() == 1) got = data[0];
        if (other.joinable()) other.join();
        cudaFree(memory);
        cudaStreamDestroy(compute);
    });
    EXPECT_EQ(got, std::byte{7});
}

TEST_F(NcclModel, AFailedCallNamesRankCallAndWhatNcclSaidInOneLine) {
    nccl_model::fail_next(1, "ncclAllGather", ncclInternalError);
    const auto texts = ends(2, [](Communicator& nccl) {
        std::vector<std::byte> own(3), all(6);
        nccl.all_gather(own, all);
    });
    EXPECT_EQ(texts[1], "rank 1: ncclAllGather: internal error; the model was asked to fail");
    EXPECT_EQ(texts[0],
              "rank 0: ncclAllGather: remote process exited or there was a network error");
}

TEST_F(NcclModel, AGroupEndsAlsoWhereAMessageOfItFails) {
    nccl_model::fail_next(0, "ncclSend", ncclInternalError);
    ends(2, [](Communicator& nccl) {
        std::vector<std::byte> in(2), out(2);
        const std::vector<int64_t> counts{1, 1};
        nccl.all_to_all_v(in, counts, out, counts);
    });
    const Calls calls = nccl_model::calls(0);
    EXPECT_EQ(std::ranges::count(calls, "ncclGroupStart"), 1);
    EXPECT_EQ(std::ranges::count(calls, "ncclGroupEnd"), 1);
}

TEST_F(NcclModel, ARankThatIsGoneEndsTheWaitOfTheOthers) {
    const auto texts = ends(3, [](Communicator& nccl) {
        if (nccl.rank() == 2) return nccl_model::lose(2);
        std::vector<int64_t> sums{1};
        EXPECT_THROW(nccl.all_reduce_sum(sums), Error);
        nccl.barrier();
    });
    const std::string aborted = ": the NCCL communicator was aborted";
    EXPECT_EQ(texts, (std::vector<std::string>{"rank 0" + aborted, "rank 1" + aborted, ""}));
}

TEST_F(NcclModel, ARequestThatNobodyWaitsForIsGivenUp) {
    const auto texts = ends(2, [](Communicator& nccl) {
        std::vector<std::byte> own(3), all(6);
        if (nccl.rank() == 0) {
            nccl.start_all_gather(own, all);
            return;
        }
        nccl.barrier();
    });
    // NCCL may see first that the ranks' calls are not the same ones.
    const std::string call = "rank 1: ncclAllReduce: ";
    EXPECT_TRUE(texts[1] == call + "remote process exited or there was a network error" ||
                texts[1] == call + "internal error")
        << texts[1];
}

TEST_F(NcclModel, RanksThatDisagreeOnSizesEndWhereTheModelSeesIt) {
    for (int which = 0; which < kMismatches; ++which) {
        nccl_model::reset(4);
        std::string all;
        // NCCL has no message of no bytes: sizes of 0 on one side alone are seen at the next call.
        for (const std::string& text : ends(2, [&](Communicator& nccl) {
                 mismatch(nccl, which);
                 nccl.barrier();
             }))
            all += text;
        EXPECT_NE(all, "") << which;
    }
}

TEST_F(NcclModel, TwoRanksOnOneDeviceAreRefused) {
    std::atomic<int> refused = 0;
    run_on_threads(2, [&](Communicator& threads) {
        try {
            start(threads, 0, nullptr);
        } catch (const Error& error) {
            EXPECT_NE(std::string(error.what()).find("Duplicate GPU detected"), std::string::npos)
                << error.what();
            ++refused;
        }
    });
    EXPECT_EQ(refused, 2);
}

TEST_F(NcclModel, ADeviceThatIsNotThereIsSaidByAllRanks) {
    std::atomic<int> refused = 0;
    run_on_threads(2, [&](Communicator& threads) {
        try {
            start(threads, 3 + threads.rank(), nullptr);
        } catch (const Error& error) {
            EXPECT_STREQ(error.what(), "rank 1: GPU 4: invalid device ordinal");
            ++refused;
        }
    });
    EXPECT_EQ(refused, 2);
}

}  // namespace
}  // namespace fucina
