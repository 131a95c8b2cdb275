// Guards against ranks that wait for ever, or exchange rubbish, because one of them makes another
// collective call than the others.
#include "parallel/ledger_communicator.h"

#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <thread>
#include <vector>

#include "collective_cases.h"
#include "kernels/error.h"
#include "mpi_ranks.h"
#include "parallel/mpi_communicator.h"
#include "parallel/thread_communicator.h"

namespace fucina {
namespace {

// Ranks 0 to size - 1 as threads, each with a ledger around its communicator.
void run_with_ledgers(int size, const std::function<void(LedgerCommunicator&)>& body) {
    auto inner = make_thread_communicators(size);
    std::vector<std::thread> threads;
    for (auto& communicator : inner) {
        threads.emplace_back([&] {
            LedgerCommunicator ledger(std::move(communicator));
            body(ledger);
        });
    }
    for (std::thread& thread : threads) thread.join();
}

struct Disagreement {
    int ranks, odd;  // the odd rank makes another call
    std::function<void(Communicator&)> call, odd_call;
    std::string message;
};

void gather(Communicator& communicator, size_t bytes) {
    std::vector<std::byte> in(bytes), out(bytes * static_cast<size_t>(communicator.size()));
    communicator.all_gather(in, out);
}
void sum(Communicator& communicator, size_t count) {
    std::vector<int64_t> values(count);
    communicator.all_reduce_sum(values);
}
void tell(Communicator& communicator, int root) {
    std::vector<std::byte> data(7);
    communicator.broadcast(data, root);
}
void exchange(Communicator& communicator) {
    const std::vector<int64_t> counts(static_cast<size_t>(communicator.size()), 0);
    communicator.all_to_all_v({}, counts, {}, counts);
}

// Two gathers, waited for in the order of `lengths` whichever was started first.
void gather_later(Communicator& communicator, std::array<size_t, 2> lengths, bool turned) {
    const auto ranks = static_cast<size_t>(communicator.size());
    std::array<std::vector<std::byte>, 2> in, out;
    std::array<std::unique_ptr<Request>, 2> requests;
    for (const size_t i : turned ? std::array<size_t, 2>{1, 0} : std::array<size_t, 2>{0, 1}) {
        in[i].resize(lengths[i]);
        out[i].resize(lengths[i] * ranks);
        requests[i] = communicator.start_all_gather(in[i], out[i]);
    }
    for (const auto& request : requests) request->wait();
}

const std::vector<Disagreement>& disagreements() {
    static const std::vector<Disagreement> all{
        {3, 2, [](auto& c) { c.barrier(); }, [](auto& c) { gather(c, 4096); },
         "rank 2 is at all_gather #3 of 4096 bytes, rank 0 at barrier #3"},
        {4, 0, [](auto& c) { sum(c, 2); }, [](auto& c) { sum(c, 3); },
         "rank 0 is at all_reduce_sum #3 of 24 bytes, rank 1 at all_reduce_sum #3 of 16 bytes"},
        {2, 1, [](auto& c) { tell(c, 0); }, [](auto& c) { tell(c, 1); },
         "rank 1 is at broadcast #3 of 7 bytes from rank 1, rank 0 at broadcast #3 of 7 bytes from "
         "rank 0"},
        {3, 1, [](auto& c) { exchange(c); }, [](auto& c) { sum(c, 1); },
         "rank 1 is at all_reduce_sum #3 of 8 bytes, rank 0 at all_to_all_v #3"},
        {3, 2,
         [](auto& c) {
             gather_later(c, {5, 5}, false);
         },
         [](auto& c) {
             gather_later(c, {5, 5}, true);
         },
         "rank 2 is at all_gather #3 of 5 bytes, the 2. started, rank 0 at all_gather #3 of 5 "
         "bytes, the 1. started"},
        {2, 1,
         [](auto& c) {
             gather_later(c, {5, 6}, false);
         },
         [](auto& c) { c.barrier(); },
         "rank 1 is at barrier #3, rank 0 at all_gather #3 of 5 bytes, the 1. started"}};
    return all;
}

// Two calls in which all agree, then the one of the case: its message on this rank.
std::string message_of(Communicator& communicator, const Disagreement& disagreement) {
    communicator.barrier();
    gather(communicator, 3);
    try {
        const bool odd = communicator.rank() == disagreement.odd;
        (odd ? disagreement.odd_call : disagreement.call)(communicator);
    } catch (const Error& error) {
        return concat(static_cast<int>(error.code()), " ", error.what());
    }
    return "nothing";
}

TEST(Ledger, NamesTheOddThread) {
    for (const Disagreement& disagreement : disagreements()) {
        std::mutex mutex;
        std::vector<std::string> messages;
        run_with_ledgers(disagreement.ranks, [&](LedgerCommunicator& ledger) {
            const std::string message = message_of(ledger, disagreement);
            std::lock_guard lock(mutex);
            messages.push_back(message);
        });
        const std::string expected =
            "1 ranks meet in different collectives: " + disagreement.message;
        EXPECT_EQ(messages,
                  std::vector<std::string>(static_cast<size_t>(disagreement.ranks), expected));
    }
}

TEST(Ledger, NamesTheOddMpiRank) {
    for (size_t i = 0; i < disagreements().size(); ++i) {
        EXPECT_EQ(run_under_mpirun(disagreements()[i].ranks, "LedgerRank.DISABLED_Disagrees",
                                   concat("FUCINA_TEST_MISMATCH=", i)),
                  0)
            << i;
    }
}

// One of the ranks that the test above starts.
TEST(LedgerRank, DISABLED_Disagrees) {
    MPI_Init(nullptr, nullptr);
    const Disagreement& disagreement =
        disagreements()[static_cast<size_t>(std::atoi(std::getenv("FUCINA_TEST_MISMATCH")))];
    LedgerCommunicator ledger(make_mpi_communicator());
    EXPECT_EQ(message_of(ledger, disagreement),
              "1 ranks meet in different collectives: " + disagreement.message);
    MPI_Finalize();
}

TEST(Ledger, PassesAllCollectivesOn) {
    for (const bool compares : {true, false}) {
        run_with_ledgers(4, [&](LedgerCommunicator& ledger) {
            ledger.compare(compares);
            EXPECT_NO_THROW(check_collectives(ledger));
            EXPECT_NO_THROW(check_reducer(ledger, 5, 400));
        });
    }
}

TEST(Ledger, SaysWhereTheRankIs) {
    Heartbeat record;
    LedgerCommunicator ledger(make_self_communicator(), &record);
    ledger.progress(Phase::load, 7);
    EXPECT_EQ(record.phase, Phase::load);
    EXPECT_EQ(record.step, 7);
    gather(ledger, 12);
    sum(ledger, 2);
    EXPECT_EQ(record.call, Call::all_reduce_sum);
    EXPECT_EQ(record.sequence, 2);
    EXPECT_EQ(record.bytes, 16);
    EXPECT_FALSE(record.inside);
    EXPECT_EQ(record.median_step, 0);
    EXPECT_LE(record.beat_at, monotonic_ns());
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ledger.progress(Phase::log, -1);
    EXPECT_EQ(record.step, 7);
    EXPECT_GE(record.median_step, 20'000'000);
}

TEST(Ledger, MeasuresTheTimeInside) {
    run_with_ledgers(2, [&](LedgerCommunicator& ledger) {
        ledger.barrier();
        const double before = ledger.seconds_inside();
        if (ledger.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
        ledger.barrier();
        const double waited = ledger.seconds_inside() - before;
        EXPECT_EQ(waited >= 0.04, ledger.rank() == 0) << waited;
    });
}

TEST(Ledger, MeasuresNoTimeBetweenStartAndWait) {
    run_with_ledgers(2, [&](LedgerCommunicator& ledger) {
        std::vector<std::byte> in(8), out(16);
        ledger.barrier();
        const double before = ledger.seconds_inside();
        const auto request = ledger.start_all_gather(in, out);
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        request->wait();
        EXPECT_LT(ledger.seconds_inside() - before, 0.04);
    });
}

}  // namespace
}  // namespace fucina
