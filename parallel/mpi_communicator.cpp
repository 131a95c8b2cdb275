// Collectives over MPI with 64-bit counts: whatever exceeds largest_message goes in pieces.
//
// Ranks that disagree on the length of a message must end with an error, neither silently nor by
// waiting. So messages end in a piece that is not full, possibly empty, by which the receiver knows
// the sender's length. Collectives are compared by LedgerCommunicator.
#include "parallel/mpi_communicator.h"

#include <mpi.h>

#include <algorithm>
#include <cstring>

#include "kernels/error.h"
#include "parallel/blocks.h"
#include "parallel/mpi_check.h"

namespace fucina {
namespace {

class MpiCommunicator final : public Communicator {
  public:
    // Takes the communicator over.
    MpiCommunicator(MPI_Comm comm, int64_t largest) : comm_(comm), largest_(largest) {
        check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
        check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
        check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
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
    void barrier() override { check_mpi(MPI_Barrier(comm_), "MPI_Barrier"); }

    void broadcast(std::span<std::byte> data, int root) override { broadcast_pieces(data, root); }

    void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override {
        FUCINA_CHECK(out.size() == in.size() * static_cast<size_t>(size_), in.size(),
                     " bytes a rank into ", out.size());
        if (static_cast<int64_t>(in.size()) <= largest_) {
            const int count = static_cast<int>(in.size());
            check_mpi(MPI_Allgather(in.data(), count, MPI_BYTE, out.data(), count, MPI_BYTE, comm_),
                      "MPI_Allgather");
            return;
        }
        std::memcpy(out.data() + in.size() * static_cast<size_t>(rank_), in.data(), in.size());
        for (int r = 0; r < size_; ++r) {
            broadcast_pieces(out.subspan(in.size() * static_cast<size_t>(r), in.size()), r);
        }
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
        return start(gather_blocks(size_, in, out));
    }
    std::unique_ptr<Request> start_all_to_all_v(std::span<const std::byte> in,
                                                std::span<const int64_t> send_counts,
                                                std::span<std::byte> out,
                                                std::span<const int64_t> receive_counts) override {
        return start(exchange_blocks(in, send_counts, out, receive_counts));
    }
    std::unique_ptr<Request> start_send(std::span<const std::byte> data, int to, int tag) override {
        auto messages = std::make_unique<Messages>(*this);
        messages->send(data, to, kTag + 1 + tag);
        return messages;
    }
    std::unique_ptr<Request> start_receive(std::span<std::byte> data, int from, int tag) override {
        auto messages = std::make_unique<Messages>(*this);
        messages->receive(data, from, kTag + 1 + tag);
        return messages;
    }

    void all_reduce_sum(std::span<int64_t> values) override { all_reduce(values, MPI_SUM); }
    void all_reduce_max(std::span<int64_t> values) override { all_reduce(values, MPI_MAX); }

    std::unique_ptr<Communicator> split(int color) override {
        MPI_Comm part = MPI_COMM_NULL;
        check_mpi(MPI_Comm_split(comm_, color, rank_, &part), "MPI_Comm_split");
        return std::make_unique<MpiCommunicator>(part, largest_);
    }

  private:
    static constexpr int kTag = 1;  // of blocks; messages use those above it

    // Messages of one tag do not overtake, so collectives that are started in one order on all
    // ranks meet their own.
    std::unique_ptr<Request> start(const Blocks& blocks) {
        auto messages = std::make_unique<Messages>(*this);
        const auto own = static_cast<size_t>(rank_);
        const std::span<const std::byte> mine = blocks.to[own];
        FUCINA_CHECK(mine.size() == blocks.from[own].size(), "rank ", rank_, " sends itself ",
                     mine.size(), " bytes and expects ", blocks.from[own].size());
        for (int r = 0; r < size_; ++r)
            if (r != rank_) messages->receive(blocks.from[static_cast<size_t>(r)], r, kTag);
        for (int r = 0; r < size_; ++r)
            if (r != rank_) messages->send(blocks.to[static_cast<size_t>(r)], r, kTag);
        if (!mine.empty()) std::memmove(blocks.from[own].data(), mine.data(), mine.size());
        return messages;
    }

    template <class Body>
    void for_pieces(size_t bytes, const Body& body) const {
        for (size_t offset = 0; offset < bytes; offset += static_cast<size_t>(largest_)) {
            body(offset, static_cast<int>(std::min(static_cast<size_t>(largest_), bytes - offset)));
        }
    }
    void broadcast_pieces(std::span<std::byte> data, int root) const {
        for_pieces(data.size(), [&](size_t offset, int count) {
            check_mpi(MPI_Bcast(data.data() + offset, count, MPI_BYTE, root, comm_), "MPI_Bcast");
        });
    }

    void all_reduce(std::span<int64_t> values, MPI_Op op) {
        check_mpi(MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()),
                                MPI_INT64_T, op, comm_),
                  "MPI_Allreduce");
    }

    // Messages under way. What is left when a check fails is given up, as its memory may go.
    class Messages final : public Request {
      public:
        explicit Messages(const MpiCommunicator& owner) : owner_(owner) {}
        Messages(const Messages&) = delete;
        Messages& operator=(const Messages&) = delete;
        ~Messages() override {
            for (MPI_Request& request : requests_) {
                if (request == MPI_REQUEST_NULL) continue;
                MPI_Cancel(&request);
                MPI_Request_free(&request);
            }
        }

        // Pieces of one (peer, tag) arrive in the order of posting: MPI does not let them overtake.
        void send(std::span<const std::byte> data, int to, int tag) {
            pieces(data.size(), to, -1, [&](size_t at, int count, MPI_Request* request) {
                check_mpi(
                    MPI_Isend(data.data() + at, count, MPI_BYTE, to, tag, owner_.comm_, request),
                    "MPI_Isend");
            });
        }
        void receive(std::span<std::byte> data, int from, int tag) {
            pieces(data.size(), from, 0, [&](size_t at, int count, MPI_Request* request) {
                check_mpi(
                    MPI_Irecv(data.data() + at, count, MPI_BYTE, from, tag, owner_.comm_, request),
                    "MPI_Irecv");
            });
        }

        void wait() override {
            const int all = static_cast<int>(requests_.size());
            std::vector<int> done(requests_.size());
            std::vector<MPI_Status> statuses(requests_.size());
            for (;;) {
                int count = 0;
                const int status =
                    MPI_Waitsome(all, requests_.data(), &count, done.data(), statuses.data());
                if (status != MPI_ERR_IN_STATUS) check_mpi(status, "MPI_Waitsome");
                if (count == MPI_UNDEFINED) return;
                for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
                    check(pieces_[static_cast<size_t>(done[i])], statuses[i],
                          status == MPI_ERR_IN_STATUS);
                }
            }
        }

        bool done() override {
            for (const MPI_Request request : requests_) {
                int done = 0;
                check_mpi(MPI_Request_get_status(request, &done, MPI_STATUS_IGNORE),
                          "MPI_Request_get_status");
                if (done == 0) return false;
            }
            return true;
        }

      private:
        struct Piece {
            int peer, expected;  // bytes; -1: a piece that is sent
        };

        template <class Post>
        void pieces(size_t bytes, int peer, int received, const Post& post) {
            const auto largest = static_cast<size_t>(owner_.largest_);
            for (size_t at = 0; at <= bytes; at += largest) {
                const int count = static_cast<int>(std::min(largest, bytes - at));
                pieces_.push_back({peer, received < 0 ? -1 : count});
                requests_.push_back(MPI_REQUEST_NULL);
                post(at, count, &requests_.back());
            }
        }
        void check(const Piece& piece, const MPI_Status& status, bool with_error) const {
            // A message longer than its buffer is an error of MPI's own.
            if (with_error && status.MPI_ERROR != MPI_SUCCESS) {
                fail(ExitCode::internal, "rank ", owner_.rank_, ", a message ",
                     piece.expected < 0 ? "to" : "from", " rank ", piece.peer, ", where ",
                     piece.expected, " bytes are expected: ", mpi_text(status.MPI_ERROR));
            }
            if (piece.expected < 0) return;
            int count = 0;
            check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
            FUCINA_CHECK(count == piece.expected, "rank ", piece.peer, " sent ", count,
                         " bytes, rank ", owner_.rank_, " expects ", piece.expected);
        }

        const MpiCommunicator& owner_;
        std::vector<Piece> pieces_;
        std::vector<MPI_Request> requests_;
    };

    MPI_Comm comm_ = MPI_COMM_NULL;
    const int64_t largest_;
    int rank_ = 0, size_ = 1;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(int64_t largest_message) {
    MPI_Comm world = MPI_COMM_NULL;
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
    return std::make_unique<MpiCommunicator>(world, largest_message);
}

}  // namespace fucina
