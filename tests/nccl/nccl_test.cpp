// Guards against data that NCCL never gets, gets too early, or gets from where no device reads; and
// against ranks that wait for ever. The collectives of every communicator (tests/parallel), on data
// of the host and of the device.
//
// Built twice: test_nccl_model runs on the model of NCCL beside this file, test_nccl on the library
// itself with as many ranks as this machine has GPUs, since NCCL gives each rank one of its own.
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <thread>

#include "kernels/error.h"
#include "parallel/nccl_check.h"
#include "parallel/nccl_communicator.h"
#include "parallel/thread_communicator.h"
#include "tests/parallel/collective_cases.h"
#if defined(FUCINA_NCCL_MODEL)
#include "tests/nccl/model.h"
#endif

namespace fucina {
namespace {

using Body = std::function<void(Communicator&)>;

int devices() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void on_devices(int ranks, const Body& body) {
    run_on_threads(ranks, [&](Communicator& threads) {
        const auto nccl = make_nccl_communicator(threads, threads.rank(), nullptr);
        body(*nccl);
    });
}

// Memory of the thread's device.
class OnDevice {
  public:
    explicit OnDevice(const std::vector<int32_t>& values) : size_(values.size()) {
        check_cuda(0, "cudaMalloc", cudaMalloc(&at_, 4 * size_ + 1));
        copy(at_, values.data());
    }
    ~OnDevice() { cudaFree(at_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    std::span<std::byte> bytes() const { return {static_cast<std::byte*>(at_), 4 * size_}; }
    std::vector<int32_t> values() const {
        std::vector<int32_t> values(size_);
        copy(values.data(), at_);
        return values;
    }

  private:
    void copy(void* to, const void* from) const {
        check_cuda(0, "cudaMemcpy", cudaMemcpy(to, from, 4 * size_, cudaMemcpyDefault));
    }
    void* at_ = nullptr;
    size_t size_;
};

class Nccl : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
#if defined(FUCINA_NCCL_MODEL)
        nccl_model::reset(8);
#endif
        if (devices() < GetParam())
            GTEST_SKIP() << "this machine has " << devices() << " GPUs; NCCL's ranks need one each";
    }
    void TearDown() override {
#if defined(FUCINA_NCCL_MODEL)
        EXPECT_EQ(nccl_model::faults(), std::vector<std::string>());
#endif
    }
};
INSTANTIATE_TEST_SUITE_P(Ranks, Nccl, testing::Values(1, 2, 3, 4, 8));

TEST_P(Nccl, CarriesWhatTheHostHas) {
    EXPECT_NO_THROW(on_devices(GetParam(), [](Communicator& nccl) {
        check_collectives(nccl);
        check_reducer(nccl, 13, 4000);
    }));
}

TEST_P(Nccl, CarriesWhatTheDeviceHas) {
    EXPECT_NO_THROW(on_devices(GetParam(), [](Communicator& nccl) {
        const int size = nccl.size(), rank = nccl.rank();
        // Rank a sends (a + 2 b) % 3 values to rank b.
        const auto count = [](int a, int b) { return (a + 2 * b) % 3; };
        std::vector<int32_t> out, expected;
        std::vector<int64_t> sent, received;
        for (int peer = 0; peer < size; ++peer) {
            sent.push_back(4 * count(rank, peer));
            received.push_back(4 * count(peer, rank));
            out.insert(out.end(), static_cast<size_t>(count(rank, peer)), 100 * rank + peer);
            expected.insert(expected.end(), static_cast<size_t>(count(peer, rank)),
                            100 * peer + rank);
        }
        const OnDevice from(out), to(std::vector<int32_t>(expected.size(), -1));
        nccl.all_to_all_v(from.bytes(), sent, to.bytes(), received);
        FUCINA_CHECK(to.values() == expected, "all_to_all_v on rank ", rank);

        const OnDevice one({rank, -rank});
        const OnDevice all(std::vector<int32_t>(2 * static_cast<size_t>(size)));
        nccl.all_gather(one.bytes(), all.bytes());
        for (int r = 0; r < size; ++r)
            FUCINA_CHECK(all.values()[2 * static_cast<size_t>(r)] == r, "all_gather");
        nccl.broadcast(one.bytes(), size - 1);
        FUCINA_CHECK(one.values() == std::vector<int32_t>({size - 1, 1 - size}), "broadcast");
    }));
}

// Each rank starts to send to all before it receives from any.
TEST_P(Nccl, StartedMessagesDoNotBlockEachOther) {
    EXPECT_NO_THROW(on_devices(GetParam(), [](Communicator& nccl) {
        std::vector<std::unique_ptr<Request>> requests;
        std::vector<std::vector<int32_t>> sent, received;
        for (int peer = 0; peer < nccl.size(); ++peer) {
            const auto length = static_cast<size_t>(1000 * (peer != nccl.rank()));
            sent.emplace_back(length, 10 * nccl.rank() + peer);
            received.emplace_back(length);
        }
        for (int peer = 0; peer < nccl.size(); ++peer)
            if (peer != nccl.rank())
                requests.push_back(nccl.start_send(
                    std::as_bytes(std::span(sent[static_cast<size_t>(peer)])), peer, 0));
        for (int peer = 0; peer < nccl.size(); ++peer)
            if (peer != nccl.rank())
                requests.push_back(nccl.start_receive(
                    std::as_writable_bytes(std::span(received[static_cast<size_t>(peer)])), peer,
                    0));
        while (!requests.empty()) {
            requests.back()->wait();
            requests.pop_back();
        }
        for (int peer = 0; peer < nccl.size(); ++peer)
            for (const int32_t value : received[static_cast<size_t>(peer)])
                FUCINA_CHECK(value == 10 * peer + nccl.rank(), value, " from rank ", peer);
    }));
}

// The second is waited for while the first is still under way.
TEST_P(Nccl, StartedCollectivesGoOnBesideEachOther) {
    EXPECT_NO_THROW(on_devices(GetParam(), [](Communicator& nccl) {
        const auto size = static_cast<size_t>(nccl.size());
        std::vector<int64_t> own{nccl.rank()}, gathered(size), exchanged(size);
        std::vector<int64_t> to_all(size, nccl.rank()), counts(size, 8);
        const auto first = nccl.start_all_gather(std::as_bytes(std::span(own)),
                                                 std::as_writable_bytes(std::span(gathered)));
        const auto second =
            nccl.start_all_to_all_v(std::as_bytes(std::span(to_all)), counts,
                                    std::as_writable_bytes(std::span(exchanged)), counts);
        std::ranges::fill(counts, 0);  // need not live on
        second->wait();
        first->wait();
        std::vector<int64_t> expected(size);
        std::iota(expected.begin(), expected.end(), 0);
        FUCINA_CHECK(gathered == expected && exchanged == expected, "rank ", nccl.rank());
    }));
}

}  // namespace
}  // namespace fucina
