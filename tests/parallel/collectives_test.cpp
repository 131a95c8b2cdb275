// Guards against collectives that mix up blocks, and against a sum of gradients whose bits depend
// on the number of ranks. The same cases run on threads and, through mpirun, on MPI ranks.
#include <gtest/gtest.h>
#include <mpi.h>
#include <sys/wait.h>

#include <cstdlib>

#include "collective_cases.h"
#include "kernels/error.h"
#include "mpi_ranks.h"
#include "parallel/ledger_communicator.h"
#include "parallel/mpi_communicator.h"
#include "parallel/thread_communicator.h"

namespace fucina {
namespace {

constexpr int64_t kGrainCounts[] = {1, 2, 5, 13};

void check_all(Communicator& communicator) {
    check_collectives(communicator);
    for (int64_t grains : kGrainCounts) {
        for (int64_t bucket_bytes : {400, 4000, 1 << 20}) {
            check_reducer(communicator, grains, bucket_bytes);
        }
    }
}

TEST(Collectives, OfOneRank) {
    const auto self = make_self_communicator();
    EXPECT_NO_THROW(check_all(*self));
}

TEST(Collectives, OfThreads) {
    for (int ranks : {1, 2, 3, 4, 5, 8}) EXPECT_NO_THROW(run_on_threads(ranks, check_all)) << ranks;
}

TEST(Collectives, CarryAnErrorOutOfTheThreads) {
    EXPECT_THROW(run_on_threads(2, [](Communicator&) { fail(ExitCode::data, "no"); }), Error);
}

TEST(Collectives, OfThreadsThatDisagreeOnSizesEnd) {
    for (int which = 0; which < kMismatches; ++which) {
        EXPECT_THROW(run_on_threads(2, [&](Communicator& c) { mismatch(c, which); }), Error)
            << which;
    }
}

TEST(Collectives, OfMpiRanks) {
    for (int ranks : {2, 4})
        EXPECT_EQ(run_under_mpirun(ranks, "MpiRank.DISABLED_PassesAllCases"), 0) << ranks;
}

// Exit code 42: a rank found the mismatch. Silence would be 0, waiting for ever 124.
TEST(Collectives, OfMpiRanksThatDisagreeOnSizesEnd) {
    for (int which = 0; which < kMismatches; ++which) {
        const int status = run_under_mpirun(2, "MpiRank.DISABLED_Disagrees",
                                            concat("FUCINA_TEST_MISMATCH=", which));
        EXPECT_EQ(WEXITSTATUS(status), 42) << which;
    }
}

// One of the ranks that the tests above start.
TEST(MpiRank, DISABLED_Disagrees) {
    MPI_Init(nullptr, nullptr);
    const auto communicator = std::make_unique<LedgerCommunicator>(make_mpi_communicator(100));
    try {
        mismatch(*communicator, std::atoi(std::getenv("FUCINA_TEST_MISMATCH")));
        communicator->barrier();
    } catch (const Error&) {
        MPI_Abort(MPI_COMM_WORLD, 42);
    }
    MPI_Finalize();
}

TEST(MpiRank, DISABLED_PassesAllCases) {
    MPI_Init(nullptr, nullptr);
    for (int64_t largest_message : {int64_t{1} << 30, int64_t{100}}) {
        for (const bool compares : {true, false}) {
            LedgerCommunicator communicator(make_mpi_communicator(largest_message));
            communicator.compare(compares);
            EXPECT_NO_THROW(check_all(communicator)) << "messages of up to " << largest_message;
        }
    }
    MPI_Finalize();
}

}  // namespace
}  // namespace fucina
