// Collectives between threads: each rank publishes a pointer, all meet, everyone copies what it
// needs, all meet again.
#include "parallel/thread_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "kernels/error.h"

namespace fucina {
namespace {

struct Group {
    explicit Group(int size) : size(size), published(static_cast<size_t>(size)) {}

    void meet() {
        std::unique_lock lock(mutex);
        const int64_t generation = meetings;
        if (++waiting == size) {
            waiting = 0;
            ++meetings;
            changed.notify_all();
        } else {
            changed.wait(lock, [&] { return meetings != generation || broken; });
            if (meetings == generation) stop();
        }
    }

    // A rank that ends early lets nobody wait for it.
    void leave() {
        std::lock_guard lock(mutex);
        broken = true;
        changed.notify_all();
        for (const std::weak_ptr<Group>& part : parts)
            if (const auto group = part.lock()) group->leave();
    }
    [[noreturn]] static void stop() { fail(ExitCode::internal, "another rank ended early"); }

    struct Published {
        const std::byte* data = nullptr;
        const int64_t* counts = nullptr;
        size_t bytes = 0;
    };

    const int size;
    std::mutex mutex;
    std::condition_variable changed;
    int waiting = 0;
    int64_t meetings = 0;
    bool broken = false;
    std::vector<Published> published;
    std::map<std::tuple<int, int, int>, std::deque<std::vector<std::byte>>>
        mail;                                         // by (from, to, tag)
    std::map<int, std::shared_ptr<Group>> new_parts;  // by color, while a split goes on
    std::vector<std::weak_ptr<Group>> parts;          // of all splits
};

void copy_bytes(std::byte* to, const std::byte* from, int64_t count) {
    if (count > 0) std::memmove(to, from, static_cast<size_t>(count));
}

class ThreadCommunicator final : public Communicator {
  public:
    void leave() { group_->leave(); }
    ThreadCommunicator(std::shared_ptr<Group> group, int rank)
        : group_(std::move(group)), rank_(rank) {}

    int rank() const override { return rank_; }
    int size() const override { return group_->size; }
    void barrier() override { group_->meet(); }

    void broadcast(std::span<std::byte> data, int root) override {
        publish(data, nullptr);
        check_sizes(data.size());
        if (rank_ != root) {
            copy_bytes(data.data(), from(root).data, static_cast<int64_t>(data.size()));
        }
        group_->meet();
    }

    void all_gather(std::span<const std::byte> in, std::span<std::byte> out) override {
        FUCINA_CHECK(out.size() == in.size() * static_cast<size_t>(size()), in.size(),
                     " bytes a rank into ", out.size());
        publish(in, nullptr);
        check_sizes(in.size());
        for (int r = 0; r < size(); ++r) {
            copy_bytes(out.data() + in.size() * static_cast<size_t>(r), from(r).data,
                       static_cast<int64_t>(in.size()));
        }
        group_->meet();
    }

    void all_to_all_v(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                      std::span<std::byte> out, std::span<const int64_t> receive_counts) override {
        publish(in, send_counts.data());
        std::byte* to = out.data();
        for (int r = 0; r < size(); ++r) {
            const Group::Published& source = from(r);
            int64_t offset = 0;
            for (int before = 0; before < rank_; ++before) offset += source.counts[before];
            FUCINA_CHECK(source.counts[rank_] == receive_counts[static_cast<size_t>(r)], "rank ", r,
                         " sends ", source.counts[rank_], " bytes, rank ", rank_, " expects ",
                         receive_counts[static_cast<size_t>(r)]);
            copy_bytes(to, source.data + offset, source.counts[rank_]);
            to += source.counts[rank_];
        }
        group_->meet();
    }

    void send(std::span<const std::byte> data, int to, int tag) override {
        std::lock_guard lock(group_->mutex);
        group_->mail[{rank_, to, tag}].emplace_back(data.begin(), data.end());
        group_->changed.notify_all();
    }

    void receive(std::span<std::byte> data, int from, int tag) override {
        std::unique_lock lock(group_->mutex);
        auto& box = group_->mail[{from, rank_, tag}];
        group_->changed.wait(lock, [&] { return !box.empty() || group_->broken; });
        if (box.empty()) Group::stop();
        FUCINA_CHECK(box.front().size() == data.size(), "rank ", from, " sent ", box.front().size(),
                     " bytes, rank ", rank_, " expects ", data.size());
        copy_bytes(data.data(), box.front().data(), static_cast<int64_t>(data.size()));
        box.pop_front();
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
        group_->meet();
        if (rank_ == 0) group_->new_parts.clear();
        group_->meet();
        return std::make_unique<ThreadCommunicator>(std::move(part), index);
    }

  private:
    void publish(std::span<const std::byte> data, const int64_t* counts) {
        group_->published[static_cast<size_t>(rank_)] = {data.data(), counts, data.size()};
        group_->meet();
    }
    void check_sizes(size_t bytes) const {
        for (int r = 0; r < size(); ++r) {
            FUCINA_CHECK(from(r).bytes == bytes, "rank ", r, " passes ", from(r).bytes,
                         " bytes to a collective, rank ", rank_, " ", bytes);
        }
    }
    const Group::Published& from(int rank) const {
        return group_->published[static_cast<size_t>(rank)];
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
