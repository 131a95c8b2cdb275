// Communicator: the collectives of one group of ranks. MpiCommunicator carries CPU tensors between
// processes, ThreadCommunicator between threads of a test; a group of one does nothing. All ranks
// of the group must make the same collective calls in the same order. Calls block, but for those
// that start something and leave the rest to a Request. Sums of floats are never left to the
// transport: their order is part of the numbers (parallel/grad_reducer.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/exec.h"
#include "parallel/heartbeat.h"

namespace fucina {

// A message or collective that was started. Until it was waited for, its buffers must live and only
// be read, and its communicator must live. Collectives are waited for in the same order on all
// ranks. Destroying it unwaited gives it up, and nothing more can be said to the group.
class Request {
  public:
    virtual ~Request() = default;
    // Until what we receive is here, and what we sent may be overwritten. Once.
    virtual void wait() = 0;
    // Whether wait() is known to return at once.
    virtual bool done() { return false; }
};

class Communicator {
  public:
    virtual ~Communicator() = default;
    virtual int rank() const = 0;
    virtual int size() const = 0;
    // Where this rank's tensors lie; calls come in the order of its stream.
    virtual const Exec& exec() const { return kHost; }
    virtual void barrier() = 0;
    virtual void broadcast(std::span<std::byte> data, int root) = 0;
    // out holds size() blocks of in.size() bytes, by rank.
    virtual void all_gather(std::span<const std::byte> in, std::span<std::byte> out) = 0;
    // send_counts / receive_counts: bytes to / from each rank, blocks in rank order.
    virtual void all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                              std::span<std::byte> out,
                              std::span<const int64_t> receive_counts) = 0;
    virtual void send(std::span<const std::byte> data, int to, int tag) = 0;
    virtual void receive(std::span<std::byte> data, int from, int tag) = 0;

    // The same, started. Messages of one (sender, receiver, tag) arrive in the order of starting;
    // counts need not live on.
    virtual std::unique_ptr<Request> start_all_gather(std::span<const std::byte> in,
                                                      std::span<std::byte> out) = 0;
    virtual std::unique_ptr<Request> start_all_to_all_v(
        std::span<const std::byte> in, std::span<const int64_t> send_counts,
        std::span<std::byte> out, std::span<const int64_t> receive_counts) = 0;
    virtual std::unique_ptr<Request> start_send(std::span<const std::byte> data, int to,
                                                int tag) = 0;
    virtual std::unique_ptr<Request> start_receive(std::span<std::byte> data, int from,
                                                   int tag) = 0;

    virtual void all_reduce_sum(std::span<int64_t> values) = 0;  // integers: any order is the same
    virtual void all_reduce_max(std::span<int64_t> values) = 0;
    // Collective: a communicator of its own for the ranks that name the same color (at least 0), in
    // the order of their ranks here. It must not outlive what it was made of.
    virtual std::unique_ptr<Communicator> split(int color) = 0;
    // Collective: what make() makes of this communicator, or of the one that it watches, which it
    // then watches too. It must not outlive this one.
    using Make = std::function<std::unique_ptr<Communicator>(Communicator&)>;
    virtual std::unique_ptr<Communicator> wrapped(const Make& make) { return make(*this); }

    // What this rank does from here on, and that it is alive, for those that wait for it: to be
    // said wherever more than a second or so may pass without a collective. step: the one being
    // made; -1: as before. Nobody hears it unless a LedgerCommunicator keeps a Heartbeat.
    virtual void progress(Phase /*phase*/, int64_t /*step*/ = -1) {}
    // Time that this rank has spent in the calls above and in waiting for what they started, if a
    // LedgerCommunicator counts it.
    virtual double seconds_inside() const { return 0; }
};

// The group of one: every call is a no-op or a copy.
std::unique_ptr<Communicator> make_self_communicator();

}  // namespace fucina
