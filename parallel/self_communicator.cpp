// The group of one rank: every collective is a copy or nothing.
#include <cstring>

#include "kernels/error.h"
#include "parallel/communicator.h"

namespace fucina {
namespace {

class Done final : public Request {
  public:
    void wait() override {}
    bool done() override { return true; }
};

class SelfCommunicator final : public Communicator {
  public:
    int rank() const override { return 0; }
    int size() const override { return 1; }
    void barrier() override {}
    void broadcast(std::span<std::byte>, int) override {}
    void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override {
        FUCINA_CHECK(in.size() == out.size(), in.size(), " bytes into ", out.size());
        if (!in.empty()) std::memmove(out.data(), in.data(), in.size());
    }
    void all_to_all_v(std::span<const std::byte> in, std::span<const int64_t>,
                      std::span<std::byte> out, std::span<const int64_t>) override {
        all_gather(in, out);
    }
    void send(std::span<const std::byte>, int to, int) override {
        fail(ExitCode::internal, "a group of one rank has no rank ", to, " to send to");
    }
    void receive(std::span<std::byte>, int from, int) override {
        fail(ExitCode::internal, "a group of one rank has no rank ", from, " to receive from");
    }
    std::unique_ptr<Request> start_all_gather(std::span<const std::byte> in,
                                              std::span<std::byte> out) override {
        all_gather(in, out);
        return std::make_unique<Done>();
    }
    std::unique_ptr<Request> start_all_to_all_v(std::span<const std::byte> in,
                                                std::span<const int64_t>, std::span<std::byte> out,
                                                std::span<const int64_t>) override {
        return start_all_gather(in, out);
    }
    std::unique_ptr<Request> start_send(std::span<const std::byte> data, int to, int tag) override {
        send(data, to, tag);
        return nullptr;
    }
    std::unique_ptr<Request> start_receive(std::span<std::byte> data, int from, int tag) override {
        receive(data, from, tag);
        return nullptr;
    }
    void all_reduce_sum(std::span<int64_t>) override {}
    void all_reduce_max(std::span<int64_t>) override {}
    std::unique_ptr<Communicator> split(int) override { return make_self_communicator(); }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
    return std::make_unique<SelfCommunicator>();
}

}  // namespace fucina
