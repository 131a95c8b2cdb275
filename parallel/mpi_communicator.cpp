// Collectives over MPI with 64-bit counts: whatever exceeds largest_message goes in pieces.
#include "parallel/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <cstring>

#include "kernels/error.h"

namespace fucina {
namespace {

void check(int status, const char* call) {
    if (status == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(status, text, &length);
    fail(ExitCode::internal, call, ": ", std::string_view(text, static_cast<size_t>(length)));
}

class MpiCommunicator final : public Communicator {
  public:
    explicit MpiCommunicator(int64_t largest) : largest_(largest) {
        check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
        check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
        check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    }
    ~MpiCommunicator() override {
        int finalized = 0;
        MPI_Finalized(&finalized);
        if (!finalized) MPI_Comm_free(&comm_);
    }
    MpiCommunicator(const MpiCommunicator&) = delete;
    MpiCommunicator& operator=(const MpiCommunicator&) = delete;

    int rank() const override { return rank_; }
    int size() const override { return size_; }
    void barrier() override { check(MPI_Barrier(comm_), "MPI_Barrier"); }

    void broadcast(std::span<std::byte> data, int root) override {
        for_pieces(data.size(), [&](size_t offset, int count) {
            check(MPI_Bcast(data.data() + offset, count, MPI_BYTE, root, comm_), "MPI_Bcast");
        });
    }

    void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override {
        FUCINA_CHECK(out.size() == in.size() * static_cast<size_t>(size_), in.size(),
                     " bytes a rank into ", out.size());
        if (static_cast<int64_t>(in.size()) <= largest_) {
            const int count = static_cast<int>(in.size());
            check(MPI_Allgather(in.data(), count, MPI_BYTE, out.data(), count, MPI_BYTE, comm_),
                  "MPI_Allgather");
            return;
        }
        std::memcpy(out.data() + in.size() * static_cast<size_t>(rank_), in.data(), in.size());
        for (int r = 0; r < size_; ++r) {
            broadcast(out.subspan(in.size() * static_cast<size_t>(r), in.size()), r);
        }
    }

    void all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> receive_counts) override {
        std::vector<MPI_Request> requests;
        size_t offset = 0, own_in = 0, own_out = 0;
        for (int r = 0; r < size_; ++r) {
            const auto bytes = static_cast<size_t>(receive_counts[static_cast<size_t>(r)]);
            if (r == rank_) own_out = offset;
            if (r != rank_) post_receive(out.subspan(offset, bytes), r, kTag, requests);
            offset += bytes;
        }
        offset = 0;
        for (int r = 0; r < size_; ++r) {
            const auto bytes = static_cast<size_t>(send_counts[static_cast<size_t>(r)]);
            if (r == rank_) own_in = offset;
            if (r != rank_) post_send(in.subspan(offset, bytes), r, kTag, requests);
            offset += bytes;
        }
        const auto own = static_cast<size_t>(send_counts[static_cast<size_t>(rank_)]);
        if (own > 0) std::memcpy(out.data() + own_out, in.data() + own_in, own);
        wait(requests);
    }

    void send(std::span<const std::byte> data, int to, int tag) override {
        std::vector<MPI_Request> requests;
        post_send(data, to, kTag + 1 + tag, requests);
        wait(requests);
    }
    void receive(std::span<std::byte> data, int from, int tag) override {
        std::vector<MPI_Request> requests;
        post_receive(data, from, kTag + 1 + tag, requests);
        wait(requests);
    }

    void all_reduce_sum(std::span<int64_t> values) override { all_reduce(values, MPI_SUM); }
    void all_reduce_max(std::span<int64_t> values) override { all_reduce(values, MPI_MAX); }

  private:
    static constexpr int kTag = 1;  // of all_to_all_v; send() and receive() use those above it

    template <class Body>
    void for_pieces(size_t bytes, const Body& body) const {
        for (size_t offset = 0; offset < bytes; offset += static_cast<size_t>(largest_)) {
            body(offset, static_cast<int>(std::min(static_cast<size_t>(largest_), bytes - offset)));
        }
    }
    // Pieces of one (peer, tag) arrive in the order of posting: MPI does not let them overtake.
    void post_send(std::span<const std::byte> data, int to, int tag,
                   std::vector<MPI_Request>& requests) const {
        for_pieces(data.size(), [&](size_t offset, int count) {
            check(MPI_Isend(data.data() + offset, count, MPI_BYTE, to, tag, comm_,
                            &requests.emplace_back()),
                  "MPI_Isend");
        });
    }
    void post_receive(std::span<std::byte> data, int from, int tag,
                      std::vector<MPI_Request>& requests) const {
        for_pieces(data.size(), [&](size_t offset, int count) {
            check(MPI_Irecv(data.data() + offset, count, MPI_BYTE, from, tag, comm_,
                            &requests.emplace_back()),
                  "MPI_Irecv");
        });
    }
    static void wait(std::vector<MPI_Request>& requests) {
        check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE),
              "MPI_Waitall");
    }
    void all_reduce(std::span<int64_t> values, MPI_Op op) {
        check(MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()),
                            MPI_INT64_T, op, comm_),
              "MPI_Allreduce");
    }

    MPI_Comm comm_ = MPI_COMM_NULL;
    const int64_t largest_;
    int rank_ = 0, size_ = 1;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(int64_t largest_message) {
    return std::make_unique<MpiCommunicator>(largest_message);
}

}  // namespace fucina
