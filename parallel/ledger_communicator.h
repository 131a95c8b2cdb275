// LedgerCommunicator: around another communicator, it numbers the collectives, compares them over
// the ranks before they begin, measures the time spent in them, and says in the rank's Heartbeat
// where the rank is.
//
// A program in which one rank makes another call than the others would wait for ever, or exchange
// rubbish. Here all ranks throw one Error(internal) instead: "rank 2 is at all_gather #118 of 4096
// bytes, rank 0 at barrier #118".
#pragma once
#include <array>
#include <memory>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/heartbeat.h"

namespace fucina {

class LedgerCommunicator final : public Communicator {
  public:
    // record: this rank's, in memory that outlives this; none: nobody watches.
    explicit LedgerCommunicator(std::unique_ptr<Communicator> inner, Heartbeat* record = nullptr);

    // Whether collectives are compared, one small all_reduce each; they are at first. All ranks
    // call it at the same place, with the same value; it holds for what was split off too.
    void compare(bool on) { shared_->compares = on; }

    int rank() const override { return inner_->rank(); }
    int size() const override { return inner_->size(); }
    const Exec& exec() const override { return inner_->exec(); }
    void barrier() override;
    void broadcast(std::span<std::byte> data, int root) override;
    void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override;
    // Counts differ between ranks; the communicator itself checks each pair's.
    void all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> receive_counts) override;
    void send(std::span<const std::byte> data, int to, int tag) override;
    void receive(std::span<std::byte> data, int from, int tag) override;
    // What was started is numbered and compared when it is waited for.
    std::unique_ptr<Request> start_all_gather(std::span<const std::byte> in,
                                              std::span<std::byte> out) override;
    std::unique_ptr<Request> start_all_to_all_v(std::span<const std::byte> in,
                                                std::span<const int64_t> send_counts,
                                                std::span<std::byte> out,
                                                std::span<const int64_t> receive_counts) override;
    std::unique_ptr<Request> start_send(std::span<const std::byte> data, int to, int tag) override;
    std::unique_ptr<Request> start_receive(std::span<std::byte> data, int from, int tag) override;
    void all_reduce_sum(std::span<int64_t> values) override;
    void all_reduce_max(std::span<int64_t> values) override;
    // A ledger of its own, which counts time and keeps the heartbeat together with this one.
    std::unique_ptr<Communicator> split(int color) override;
    std::unique_ptr<Communicator> wrapped(const Make& make) override;
    void progress(Phase phase, int64_t step) override;
    double seconds_inside() const override {
        return static_cast<double>(shared_->inside_ns) * 1e-9;
    }

  private:
    static constexpr int64_t kAny = -1;  // a number that ranks need not share
    // A collective as one rank calls it.
    struct Entry {
        int64_t call, sequence, bytes, root;
        int64_t started = kAny;  // number among those that were started
        bool operator==(const Entry&) const = default;
    };
    class Inside;
    class Started;
    // With the ledgers of what was split off.
    struct Shared {
        bool compares = true;
        int64_t inside_ns = 0;
    };

    std::unique_ptr<Communicator> with(std::unique_ptr<Communicator> other);
    void meet(Call call, int64_t bytes, int64_t root, int64_t started = kAny);
    static std::string disagreement(const std::vector<Entry>& entries);
    static std::string place(const Entry& entry);
    void step_ended(int64_t now);

    std::unique_ptr<Communicator> inner_;
    Heartbeat own_;
    Heartbeat& record_;
    std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
    int64_t sequence_ = 0, started_ = 0;
    int64_t step_began_ = 0;
    std::vector<int64_t> steps_;  // ns, of the last ones
};

}  // namespace fucina
