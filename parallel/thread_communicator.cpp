// Collectives between threads: every rank hands in its blocks, and the last one to come moves them
// all. Messages lie in numbered mail until they are fetched.
#include "parallel/thread_communicator.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "kernels/error.h"
#include "parallel/blocks.h"

namespace fucina {
namespace {

void copy_bytes(std::span<std::byte> to, std::span<const std::byte> from) {
    if (!from.empty()) std::memmove(to.data(), from.data(), from.size());
}

// A collective on its way. The buffers of those that came must live until it is done.
struct Exchange {
    explicit Exchange(size_t ranks) : blocks(ranks) {}

    void move() {
        for (size_t to = 0; to < blocks.size() && error.empty(); ++to) {
            for (size_t from = 0; from < blocks.size(); ++from) {
                const auto sent = blocks[from].to[to];
                const auto place = blocks[to].from[from];
                if (sent.size() != place.size()) {
                    error = concat("rank ", from, " sends ", sent.size(), " bytes, rank ", to,
                                   " expects ", place.size());
                    break;
                }
                copy_bytes(place, sent);
            }
        }
        done = true;
    }

    std::vector<Blocks> blocks;  // by rank
    size_t came = 0;
    bool done = false;
    std::string error;
};

struct Group {
    explicit Group(int size) : size(size) {}

    // A rank that ends early lets nobody wait for it.
    void leave() {
        std::lock_guard lock(mutex);
        broken = true;
        changed.notify_all();
        for (const std::weak_ptr<Group>& part : parts)
            if (const auto group = part.lock()) group->leave();
    }
    [[noreturn]] static void stop() { fail(ExitCode::internal, "another rank ended early"); }

    // Messages of one sender, receiver and tag, by number.
    struct Mail {
        int64_t sent = 0, expected = 0;
        std::map<int64_t, std::vector<std::byte>> messages;
    };

    const int size;
    std::mutex mutex;
    std::condition_variable changed;
    bool broken = false;
    // By kind and number, until all have come. A call that blocks meets only such calls, so that a
    // LedgerCommunicator can find that others wait for what was started.
    enum Kind { blocking, started };
    std::map<std::pair<Kind, int64_t>, std::shared_ptr<Exchange>> exchanges;
    std::map<std::tuple<int, int, int>, Mail> mail;   // by (from, to, tag)
    std::map<int, std::shared_ptr<Group>> new_parts;  // by color, while a split goes on
    std::vector<std::weak_ptr<Group>> parts;          // of all splits
};

class ExchangeRequest final : public Request {
  public:
    ExchangeRequest(std::shared_ptr<Group> group, std::shared_ptr<Exchange> exchange)
        : group_(std::move(group)), exchange_(std::move(exchange)) {}
    // Nobody may touch our buffers from here on.
    ~ExchangeRequest() override {
        std::lock_guard lock(group_->mutex);
        if (exchange_->done) return;
        exchange_->done = true;
        exchange_->error = "a rank gave a collective up";
        group_->changed.notify_all();
    }
    ExchangeRequest(const ExchangeRequest&) = delete;
    ExchangeRequest& operator=(const ExchangeRequest&) = delete;

    void wait() override {
        std::unique_lock lock(group_->mutex);
        group_->changed.wait(lock, [&] { return exchange_->done || group_->broken; });
        if (!exchange_->done) Group::stop();
        if (!exchange_->error.empty()) fail(ExitCode::internal, exchange_->error);
    }
    bool done() override {
        std::lock_guard lock(group_->mutex);
        return exchange_->done;
    }

  private:
    std::shared_ptr<Group> group_;
    std::shared_ptr<Exchange> exchange_;
};

class Sent final : public Request {
  public:
    void wait() override {}
    bool done() override { return true; }
};

class Receipt final : public Request {
  public:
    struct Way {
        int from, to, tag;
        int64_t number;
    };
    Receipt(std::shared_ptr<Group> group, const Way& way, std::span<std::byte> data)
        : group_(std::move(group)), way_(way), data_(data) {}

    void wait() override {
        std::unique_lock lock(group_->mutex);
        auto& messages = group_->mail[{way_.from, way_.to, way_.tag}].messages;
        const auto here = [&] { return messages.find(way_.number); };
        group_->changed.wait(lock, [&] { return here() != messages.end() || group_->broken; });
        if (here() == messages.end()) Group::stop();
        const std::vector<std::byte>& message = here()->second;
        FUCINA_CHECK(message.size() == data_.size(), "rank ", way_.from, " sent ", message.size(),
                     " bytes, rank ", way_.to, " expects ", data_.size());
        copy_bytes(data_, message);
        messages.erase(here());
    }
    bool done() override {
        std::lock_guard lock(group_->mutex);
        return group_->mail[{way_.from, way_.to, way_.tag}].messages.contains(way_.number);
    }

  private:
    std::shared_ptr<Group> group_;
    const Way way_;
    const std::span<std::byte> data_;
};

class ThreadCommunicator final : public Communicator {
  public:
    void leave() { group_->leave(); }
    ThreadCommunicator(std::shared_ptr<Group> group, int rank)
        : group_(std::move(group)), rank_(rank) {}

    int rank() const override { return rank_; }
    int size() const override { return group_->size; }
    void barrier() override { start(Group::blocking, no_blocks())->wait(); }

    void broadcast(std::span<std::byte> data, int root) override {
        Blocks blocks = no_blocks();
        if (rank_ == root) std::ranges::fill(blocks.to, data);
        blocks.from[static_cast<size_t>(root)] = data;
        start(Group::blocking, std::move(blocks))->wait();
    }
    void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override {
        start(Group::blocking, gather_blocks(size(), in, out))->wait();
    }
    void all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> receive_counts) override {
        start(Group::blocking, exchange_blocks(in, send_counts, out, receive_counts))->wait();
    }
    void send(std::span<const std::byte> data, int to, int tag) override {
        start_send(data, to, tag)->wait();
    }
    void receive(std::span<std::byte> data, int from, int tag) override {
        start_receive(data, from, tag)->wait();
    }

    std::unique_ptr<Request> start_all_gather(std::span<const std::byte> in,
                                              std::span<std::byte> out) override {
        return start(Group::started, gather_blocks(size(), in, out));
    }
    std::unique_ptr<Request> start_all_to_all_v(std::span<const std::byte> in,
                                                std::span<const int64_t> send_counts,
                                                std::span<std::byte> out,
                                                std::span<const int64_t> receive_counts) override {
        return start(Group::started, exchange_blocks(in, send_counts, out, receive_counts));
    }
    std::unique_ptr<Request> start_send(std::span<const std::byte> data, int to, int tag) override {
        std::lock_guard lock(group_->mutex);
        Group::Mail& mail = group_->mail[{rank_, to, tag}];
        mail.messages[mail.sent++].assign(data.begin(), data.end());
        group_->changed.notify_all();
        return std::make_unique<Sent>();
    }
    std::unique_ptr<Request> start_receive(std::span<std::byte> data, int from, int tag) override {
        std::lock_guard lock(group_->mutex);
        const int64_t number = group_->mail[{from, rank_, tag}].expected++;
        return std::make_unique<Receipt>(group_, Receipt::Way{from, rank_, tag, number}, data);
    }

    void all_reduce_sum(std::span<int64_t> values) override {
        all_reduce(values, [](int64_t a, int64_t b) { return a + b; });
    }
    void all_reduce_max(std::span<int64_t> values) override {
        all_reduce(values, [](int64_t a, int64_t b) { return std::max(a, b); });
    }

    std::unique_ptr<Communicator> split(int color) override {
        const int64_t own = color;
        std::vector<int64_t> colors(static_cast<size_t>(size()));
        all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(colors)));
        const auto here = colors.begin() + rank_;
        const auto members = static_cast<int>(std::ranges::count(colors, own));
        const auto index = static_cast<int>(std::count(colors.begin(), here, own));
        std::shared_ptr<Group> part;
        {
            std::lock_guard lock(group_->mutex);
            std::shared_ptr<Group>& shared = group_->new_parts[color];
            if (!shared) {
                shared = std::make_shared<Group>(members);
                group_->parts.push_back(shared);
            }
            part = shared;
        }
        barrier();
        if (rank_ == 0) group_->new_parts.clear();
        barrier();
        return std::make_unique<ThreadCommunicator>(std::move(part), index);
    }

  private:
    Blocks no_blocks() const {
        const auto ranks = static_cast<size_t>(size());
        return {std::vector<std::span<const std::byte>>(ranks),
                std::vector<std::span<std::byte>>(ranks)};
    }
    std::unique_ptr<Request> start(Group::Kind kind, Blocks blocks) {
        std::lock_guard lock(group_->mutex);
        const std::pair key(kind, numbers_[kind]++);
        std::shared_ptr<Exchange>& here = group_->exchanges[key];
        if (!here) here = std::make_shared<Exchange>(static_cast<size_t>(size()));
        const std::shared_ptr<Exchange> exchange = here;
        exchange->blocks[static_cast<size_t>(rank_)] = std::move(blocks);
        if (++exchange->came == exchange->blocks.size()) {
            if (!exchange->done) exchange->move();
            group_->exchanges.erase(key);
            group_->changed.notify_all();
        }
        return std::make_unique<ExchangeRequest>(group_, exchange);
    }
    template <class Combine>
    void all_reduce(std::span<int64_t> values, Combine combine) {
        std::vector<int64_t> all(values.size() * static_cast<size_t>(size()));
        all_gather(std::as_bytes(values), std::as_writable_bytes(std::span(all)));
        for (size_t i = 0; i < values.size(); ++i) {
            values[i] = all[i];
            for (size_t r = 1; r < static_cast<size_t>(size()); ++r) {
                values[i] = combine(values[i], all[r * values.size() + i]);
            }
        }
    }

    std::shared_ptr<Group> group_;
    const int rank_;
    std::array<int64_t, 2> numbers_{};  // of collectives so far, by kind
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int size) {
    auto group = std::make_shared<Group>(size);
    std::vector<std::unique_ptr<Communicator>> ranks;
    for (int r = 0; r < size; ++r) {
        ranks.push_back(std::make_unique<ThreadCommunicator>(group, r));
    }
    return ranks;
}

void run_on_threads(int size, const std::function<void(Communicator&)>& body) {
    auto ranks = make_thread_communicators(size);
    std::mutex mutex;
    std::exception_ptr first;
    std::vector<std::thread> threads;
    for (size_t r = 0; r < ranks.size(); ++r) {
        threads.emplace_back([&, r] {
            try {
                body(*ranks[r]);
            } catch (...) {
                {
                    std::lock_guard lock(mutex);
                    if (!first) first = std::current_exception();
                }
                static_cast<ThreadCommunicator&>(*ranks[r]).leave();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    if (first) std::rethrow_exception(first);
}

}  // namespace fucina
