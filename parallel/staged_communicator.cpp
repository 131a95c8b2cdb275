#include "parallel/staged_communicator.h"

#include <utility>

#include "kernels/arena.h"

namespace fucina {
namespace {

// A span of the host for one that may lie on the device. It may move, not be copied.
class Staged {
  public:
    Staged(const Exec& exec, std::span<const std::byte> at)
        : exec_(&exec), there_(const_cast<std::byte*>(at.data()), at.size()), here_(there_) {
        if (at.empty() || !exec.arena->holds(at.data())) return;
        MemoryPurpose purpose("communication");
        buffer_ = Tensor::empty({static_cast<int64_t>(at.size())}, DType::u8);
        here_ = buffer_.memory();
    }
    // What the device has, before it is read.
    const Staged& fetch() const {
        if (buffer_.defined()) exec_->copy_bytes(there_, here_);
        return *this;
    }
    void store() const {
        if (buffer_.defined()) exec_->copy_bytes(here_, there_);
    }
    std::span<std::byte> span() const { return here_; }

  private:
    const Exec* exec_;
    std::span<std::byte> there_, here_;
    Tensor buffer_;
};

class StagedRequest final : public Request {
  public:
    // in is kept until the message has gone.
    StagedRequest(std::unique_ptr<Request> inner, Staged in, Staged out)
        : in_(std::move(in)), out_(std::move(out)), inner_(std::move(inner)) {}
    void wait() override {
        inner_->wait();
        out_.store();
    }
    bool done() override { return inner_->done(); }

  private:
    Staged in_, out_;
    std::unique_ptr<Request> inner_;  // first to go
};

class StagedCommunicator final : public Communicator {
  public:
    StagedCommunicator(Communicator& inner, const Exec& exec,
                       std::unique_ptr<Communicator> collectives)
        : inner_(inner), collectives_(std::move(collectives)), exec_(exec) {}
    StagedCommunicator(std::unique_ptr<Communicator> inner, const Exec& exec,
                       std::unique_ptr<Communicator> collectives)
        : owned_(std::move(inner)),
          inner_(*owned_),
          collectives_(std::move(collectives)),
          exec_(exec) {}

    int rank() const override { return inner_.rank(); }
    int size() const override { return inner_.size(); }
    const Exec& exec() const override { return exec_; }
    void barrier() override { inner_.barrier(); }
    void broadcast(std::span<std::byte> data, int root) override {
        if (collectives_) return collectives_->broadcast(data, root);
        const Staged staged(exec_, data);
        inner_.broadcast(staged.fetch().span(), root);
        staged.store();
    }
    void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override {
        if (collectives_) return collectives_->all_gather(in, out);
        const Staged from(exec_, in), to(exec_, out);
        inner_.all_gather(from.fetch().span(), to.span());
        to.store();
    }
    void all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> receive_counts) override {
        if (collectives_) return collectives_->all_to_all_v(in, send_counts, out, receive_counts);
        const Staged from(exec_, in), to(exec_, out);
        inner_.all_to_all_v(from.fetch().span(), send_counts, to.span(), receive_counts);
        to.store();
    }
    void send(std::span<const std::byte> data, int to, int tag) override {
        inner_.send(Staged(exec_, data).fetch().span(), to, tag);
    }
    void receive(std::span<std::byte> data, int from, int tag) override {
        const Staged staged(exec_, data);
        inner_.receive(staged.span(), from, tag);
        staged.store();
    }
    std::unique_ptr<Request> start_all_gather(std::span<const std::byte> in,
                                              std::span<std::byte> out) override {
        if (collectives_) return collectives_->start_all_gather(in, out);
        Staged from(exec_, in), to(exec_, out);
        auto request = inner_.start_all_gather(from.fetch().span(), to.span());
        return started(std::move(request), std::move(from), std::move(to));
    }
    std::unique_ptr<Request> start_all_to_all_v(std::span<const std::byte> in,
                                                std::span<const int64_t> send_counts,
                                                std::span<std::byte> out,
                                                std::span<const int64_t> receive_counts) override {
        if (collectives_)
            return collectives_->start_all_to_all_v(in, send_counts, out, receive_counts);
        Staged from(exec_, in), to(exec_, out);
        auto request =
            inner_.start_all_to_all_v(from.fetch().span(), send_counts, to.span(), receive_counts);
        return started(std::move(request), std::move(from), std::move(to));
    }
    std::unique_ptr<Request> start_send(std::span<const std::byte> data, int to, int tag) override {
        Staged from(exec_, data);
        auto request = inner_.start_send(from.fetch().span(), to, tag);
        return started(std::move(request), std::move(from), Staged(exec_, {}));
    }
    std::unique_ptr<Request> start_receive(std::span<std::byte> data, int from, int tag) override {
        Staged to(exec_, data);
        auto request = inner_.start_receive(to.span(), from, tag);
        return started(std::move(request), Staged(exec_, {}), std::move(to));
    }
    void all_reduce_sum(std::span<int64_t> values) override { inner_.all_reduce_sum(values); }
    void all_reduce_max(std::span<int64_t> values) override { inner_.all_reduce_max(values); }
    std::unique_ptr<Communicator> split(int color) override {
        auto collectives = collectives_ ? collectives_->split(color) : nullptr;
        return std::make_unique<StagedCommunicator>(inner_.split(color), exec_,
                                                    std::move(collectives));
    }
    void progress(Phase phase, int64_t step) override { inner_.progress(phase, step); }
    double seconds_inside() const override { return inner_.seconds_inside(); }

  private:
    static std::unique_ptr<Request> started(std::unique_ptr<Request> inner, Staged in, Staged out) {
        return std::make_unique<StagedRequest>(std::move(inner), std::move(in), std::move(out));
    }

    std::unique_ptr<Communicator> owned_;
    Communicator& inner_;
    std::unique_ptr<Communicator> collectives_;
    const Exec exec_;
};

}  // namespace

std::unique_ptr<Communicator> make_staged_communicator(Communicator& inner, const Exec& exec,
                                                       std::unique_ptr<Communicator> collectives) {
    return std::make_unique<StagedCommunicator>(inner, exec, std::move(collectives));
}

}  // namespace fucina
