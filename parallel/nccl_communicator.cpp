// Every call becomes work on a stream of the communicator's own, and an event behind it that the
// host polls together with NCCL's asynchronous errors.
#include "parallel/nccl_communicator.h"

#include <exception>
#include <thread>
#include <utility>

#include "kernels/error.h"
#include "parallel/agreement.h"
#include "parallel/nccl_check.h"
#include "parallel/nccl_staging.h"

namespace fucina {
namespace {

struct DestroyEvent {
    void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using Event = std::unique_ptr<CUevent_st, DestroyEvent>;

// What NCCL was given, or will be.
struct Work {
    const char* call = "";
    Event done;  // null: NCCL does not have it yet
    NcclStaging::Loan loan;
};

class NcclCommunicator final : public Communicator {
  public:
    // Takes the communicator over.
    NcclCommunicator(ncclComm_t comm, int rank, int size, Stream compute)
        : comm_(comm), rank_(rank), size_(size), compute_(compute), staging_(rank) {
        cuda("cudaStreamCreateWithFlags",
             cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
        made_ = new_event();
    }
    // Destroying waits for the others, who may never come when an error is on its way.
    ~NcclCommunicator() override {
        if (std::uncaught_exceptions() > 0) abort();
        if (comm_ != nullptr) ncclCommDestroy(comm_);
        cudaStreamDestroy(stream_);
    }
    NcclCommunicator(const NcclCommunicator&) = delete;
    NcclCommunicator& operator=(const NcclCommunicator&) = delete;

    int rank() const override { return rank_; }
    int size() const override { return size_; }

    void barrier() override {
        std::vector<int64_t> nothing{0};
        all_reduce_sum(nothing);
    }

    void broadcast(std::span<std::byte> data, int root) override {
        if (data.empty()) return;
        Work work = begin("ncclBroadcast");
        void* const at = staging_.in_and_out(work.loan, data);
        nccl(work.call, ncclBroadcast(at, at, data.size(), ncclUint8, root, comm_, stream_));
        end(work);
        wait(work);
    }

    void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override {
        start_all_gather(in, out)->wait();
    }
    void all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> receive_counts) override {
        start_all_to_all_v(in, send_counts, out, receive_counts)->wait();
    }
    void send(std::span<const std::byte> data, int to, int tag) override {
        start_send(data, to, tag)->wait();
    }
    void receive(std::span<std::byte> data, int from, int tag) override {
        start_receive(data, from, tag)->wait();
    }

    std::unique_ptr<Request> start_all_gather(std::span<const std::byte> in,
                                              std::span<std::byte> out) override {
        FUCINA_CHECK(out.size() == in.size() * static_cast<size_t>(size_), in.size(),
                     " bytes a rank into ", out.size());
        Work work = begin("ncclAllGather");
        if (!in.empty()) {
            const void* const from = staging_.input(work.loan, in);
            nccl(work.call, ncclAllGather(from, staging_.output(work.loan, out), in.size(),
                                          ncclUint8, comm_, stream_));
        }
        end(work);
        return std::make_unique<Started>(*this, std::make_shared<Work>(std::move(work)));
    }

    std::unique_ptr<Request> start_all_to_all_v(std::span<const std::byte> in,
                                                std::span<const int64_t> send_counts,
                                                std::span<std::byte> out,
                                                std::span<const int64_t> receive_counts) override {
        const auto own = static_cast<size_t>(rank_);
        FUCINA_CHECK(send_counts[own] == receive_counts[own], "rank ", rank_, " sends itself ",
                     send_counts[own], " bytes and expects ", receive_counts[own]);
        const std::vector<size_t> sent = offsets(send_counts, in.size());
        const std::vector<size_t> received = offsets(receive_counts, out.size());
        Work work = begin("all_to_all_v");
        const auto* const from = static_cast<const std::byte*>(staging_.input(work.loan, in));
        auto* const to = static_cast<std::byte*>(staging_.output(work.loan, out));
        in_group([&](const auto& check) {
            for (int r = 0; r < size_; ++r) {
                const auto i = static_cast<size_t>(r);
                const size_t out_bytes = sent[i + 1] - sent[i];
                const size_t in_bytes = received[i + 1] - received[i];
                if (r != rank_ && out_bytes > 0)
                    check("ncclSend",
                          ncclSend(from + sent[i], out_bytes, ncclUint8, r, comm_, stream_));
                if (r != rank_ && in_bytes > 0)
                    check("ncclRecv",
                          ncclRecv(to + received[i], in_bytes, ncclUint8, r, comm_, stream_));
            }
        });
        if (send_counts[own] > 0)
            cuda("cudaMemcpyAsync", cudaMemcpyAsync(to + received[own], from + sent[own],
                                                    static_cast<size_t>(send_counts[own]),
                                                    cudaMemcpyDefault, stream_));
        end(work);
        return std::make_unique<Started>(*this, std::make_shared<Work>(std::move(work)));
    }

    std::unique_ptr<Request> start_send(std::span<const std::byte> data, int to, int) override {
        return start_message({.data = {const_cast<std::byte*>(data.data()), data.size()},
                              .peer = to,
                              .sends = true});
    }
    std::unique_ptr<Request> start_receive(std::span<std::byte> data, int from, int) override {
        return start_message({.data = data, .peer = from, .sends = false});
    }

    void all_reduce_sum(std::span<int64_t> values) override { all_reduce(values, ncclSum); }
    void all_reduce_max(std::span<int64_t> values) override { all_reduce(values, ncclMax); }

    std::unique_ptr<Communicator> split(int color) override {
        check_usable();
        ncclComm_t part = nullptr;
        nccl("ncclCommSplit", ncclCommSplit(comm_, color, rank_, &part, nullptr));
        int rank = 0, size = 0;
        nccl("ncclCommUserRank", ncclCommUserRank(part, &rank));
        nccl("ncclCommCount", ncclCommCount(part, &size));
        return std::make_unique<NcclCommunicator>(part, rank, size, compute_);
    }

  private:
    struct Message {
        std::span<std::byte> data;
        int peer;
        bool sends;
        std::shared_ptr<Work> work = nullptr;
    };

    class Started final : public Request {
      public:
        Started(NcclCommunicator& owner, std::shared_ptr<Work> work)
            : owner_(owner), work_(std::move(work)) {}
        ~Started() override {
            if (work_ != nullptr) owner_.abort();
        }
        Started(const Started&) = delete;
        Started& operator=(const Started&) = delete;
        void wait() override {
            if (work_->done == nullptr) owner_.launch_messages();
            const std::shared_ptr<Work> work = std::exchange(work_, nullptr);
            owner_.wait(*work);
        }

      private:
        NcclCommunicator& owner_;
        std::shared_ptr<Work> work_;
    };

    // The bytes before each rank's block, and all.
    static std::vector<size_t> offsets(std::span<const int64_t> counts, size_t all) {
        std::vector<size_t> offsets{0};
        for (const int64_t count : counts) {
            const auto bytes = static_cast<size_t>(count);
            FUCINA_CHECK(bytes <= all - offsets.back(), "blocks beyond ", all, " bytes");
            offsets.push_back(offsets.back() + bytes);
        }
        return offsets;
    }

    void cuda(const char* call, cudaError_t status) const { check_cuda(rank_, call, status); }
    void nccl(const char* call, ncclResult_t status) {
        if (status == ncclSuccess) return;
        const std::string text = nccl_text(rank_, call, status, comm_);
        abort();
        fail(ExitCode::internal, text);
    }
    // Ends what NCCL has under way here; other ranks hear of it as an asynchronous error.
    void abort() {
        if (comm_ != nullptr) ncclCommAbort(std::exchange(comm_, nullptr));
    }
    void check_usable() const {
        if (comm_ == nullptr)
            fail(ExitCode::internal, "rank ", rank_, ": the NCCL communicator was aborted");
    }
    // body(check) gives NCCL several messages that must run together. The group ends whatever
    // happens in it, as the thread has only one.
    template <class Body>
    void in_group(const Body& body) {
        nccl("ncclGroupStart", ncclGroupStart());
        const char* failed = nullptr;
        ncclResult_t first = ncclSuccess;
        body([&](const char* call, ncclResult_t status) {
            if (first != ncclSuccess || status == ncclSuccess) return;
            failed = call;
            first = status;
        });
        const ncclResult_t ended = ncclGroupEnd();
        if (failed != nullptr) nccl(failed, first);
        nccl("ncclGroupEnd", ended);
    }
    Event new_event() const {
        cudaEvent_t event = nullptr;
        cuda("cudaEventCreateWithFlags", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        return Event(event);
    }

    // From here on the stream waits for what the compute stream has now.
    Work begin(const char* call) {
        check_usable();
        cuda("cudaEventRecord", cudaEventRecord(made_.get(), compute_));
        cuda("cudaStreamWaitEvent", cudaStreamWaitEvent(stream_, made_.get(), 0));
        return {.call = call};
    }
    void end(Work& work) const {
        work.done = new_event();
        cuda("cudaEventRecord", cudaEventRecord(work.done.get(), stream_));
    }
    void wait(Work& work) {
        for (;;) {
            const cudaError_t status = cudaEventQuery(work.done.get());
            if (status != cudaErrorNotReady) cuda("cudaEventQuery", status);
            check_usable();
            ncclResult_t error = ncclSuccess;
            nccl("ncclCommGetAsyncError", ncclCommGetAsyncError(comm_, &error));
            if (error != ncclInProgress) nccl(work.call, error);
            if (status == cudaSuccess) break;
            std::this_thread::yield();
        }
        staging_.give_back(work.loan);
    }

    std::unique_ptr<Request> start_message(Message message) {
        check_usable();
        message.work = std::make_shared<Work>();
        messages_.push_back(message);
        return std::make_unique<Started>(*this, message.work);
    }
    // All messages that were started, as one group.
    void launch_messages() {
        if (messages_.empty()) return;
        const std::vector<Message> messages = std::exchange(messages_, {});
        std::vector<void*> places;
        for (const Message& message : messages) {
            *message.work = begin(message.sends ? "ncclSend" : "ncclRecv");
            places.push_back(
                message.sends ? const_cast<void*>(staging_.input(message.work->loan, message.data))
                              : staging_.output(message.work->loan, message.data));
        }
        in_group([&](const auto& check) {
            for (size_t i = 0; i < messages.size(); ++i) {
                const Message& message = messages[i];
                const size_t bytes = message.data.size();
                if (bytes == 0) continue;
                check(message.work->call,
                      message.sends
                          ? ncclSend(places[i], bytes, ncclUint8, message.peer, comm_, stream_)
                          : ncclRecv(places[i], bytes, ncclUint8, message.peer, comm_, stream_));
            }
        });
        for (const Message& message : messages) end(*message.work);
    }

    void all_reduce(std::span<int64_t> values, ncclRedOp_t op) {
        if (values.empty()) return;
        Work work = begin("ncclAllReduce");
        void* const at = staging_.in_and_out(work.loan, std::as_writable_bytes(values));
        nccl(work.call, ncclAllReduce(at, at, values.size(), ncclInt64, op, comm_, stream_));
        end(work);
        wait(work);
    }

    ncclComm_t comm_;  // null: aborted
    const int rank_, size_;
    const Stream compute_;
    NcclStaging staging_;
    cudaStream_t stream_ = nullptr;
    Event made_;                     // of the compute stream
    std::vector<Message> messages_;  // that NCCL does not have yet
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& ranks, int device,
                                                     Stream compute) {
    const int rank = ranks.rank();
    const auto check = [&](const char* call, ncclResult_t status, ncclComm_t comm) {
        if (status != ncclSuccess) fail(ExitCode::internal, nccl_text(rank, call, status, comm));
    };
    ncclUniqueId id{};
    agree(ranks, [&] {
        if (const cudaError_t status = cudaSetDevice(device); status != cudaSuccess)
            fail(ExitCode::usage, "GPU ", device, ": ", cudaGetErrorString(status));
        if (rank == 0) check("ncclGetUniqueId", ncclGetUniqueId(&id), nullptr);
    });
    ranks.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    ncclComm_t comm = nullptr;
    check("ncclCommInitRank", ncclCommInitRank(&comm, ranks.size(), id, rank), comm);
    return std::make_unique<NcclCommunicator>(comm, rank, ranks.size(), compute);
}

}  // namespace fucina
