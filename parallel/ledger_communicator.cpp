#include "parallel/ledger_communicator.h"

#include <algorithm>

#include "kernels/error.h"

namespace fucina {
namespace {

constexpr size_t kMedianOf = 31;  // steps
constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

// From the call of a collective or message to its end, however it ends.
class LedgerCommunicator::Inside {
  public:
    enum class Moment { start, end };  // of what is only started; else `end`
    Inside(LedgerCommunicator& owner, Call call, size_t bytes, Moment moment = Moment::end)
        : owner_(owner), began_(monotonic_ns()) {
        Heartbeat& record = owner.record_;
        if (is_collective(call) && moment == Moment::end)
            record.sequence.store(++owner.sequence_, kRelaxed);
        record.call.store(call, kRelaxed);
        record.bytes.store(static_cast<int64_t>(bytes), kRelaxed);
        record.beat_at.store(began_, kRelaxed);
        record.inside.store(true, kRelaxed);
    }
    ~Inside() {
        const int64_t now = monotonic_ns();
        owner_.shared_->inside_ns += now - began_;
        owner_.record_.beat_at.store(now, kRelaxed);
        owner_.record_.inside.store(false, kRelaxed);
    }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

  private:
    LedgerCommunicator& owner_;
    const int64_t began_;
};

class LedgerCommunicator::Started final : public Request {
  public:
    struct What {
        Call call;
        size_t bytes;
        int64_t compared;  // bytes, if ranks must agree on them
    };
    template <class Start>
    Started(LedgerCommunicator& owner, const What& what, const Start& start)
        : owner_(owner), what_(what), number_(is_collective(what.call) ? ++owner.started_ : kAny) {
        const Inside inside(owner, what.call, what.bytes, Inside::Moment::start);
        inner_ = start(*owner.inner_);
    }

    void wait() override {
        const Inside inside(owner_, what_.call, what_.bytes);
        if (is_collective(what_.call)) owner_.meet(what_.call, what_.compared, kAny, number_);
        inner_->wait();
    }
    bool done() override { return inner_->done(); }

  private:
    LedgerCommunicator& owner_;
    const What what_;
    const int64_t number_;
    std::unique_ptr<Request> inner_;
};

LedgerCommunicator::LedgerCommunicator(std::unique_ptr<Communicator> inner, Heartbeat* record)
    : inner_(std::move(inner)), record_(record != nullptr ? *record : own_) {}

void LedgerCommunicator::barrier() {
    const Inside inside(*this, Call::barrier, 0);
    meet(Call::barrier, 0, kAny);
    inner_->barrier();
}

void LedgerCommunicator::broadcast(std::span<std::byte> data, int root) {
    const Inside inside(*this, Call::broadcast, data.size());
    meet(Call::broadcast, static_cast<int64_t>(data.size()), root);
    inner_->broadcast(data, root);
}

void LedgerCommunicator::all_gather(std::span<const std::byte> in, std::span<std::byte> out) {
    const Inside inside(*this, Call::all_gather, in.size());
    meet(Call::all_gather, static_cast<int64_t>(in.size()), kAny);
    inner_->all_gather(in, out);
}

void LedgerCommunicator::all_to_all_v(std::span<const std::byte> in,
                                      std::span<const int64_t> send_counts,
                                      std::span<std::byte> out,
                                      std::span<const int64_t> receive_counts) {
    const Inside inside(*this, Call::all_to_all_v, in.size());
    meet(Call::all_to_all_v, kAny, kAny);
    inner_->all_to_all_v(in, send_counts, out, receive_counts);
}

void LedgerCommunicator::send(std::span<const std::byte> data, int to, int tag) {
    const Inside inside(*this, Call::send, data.size());
    inner_->send(data, to, tag);
}

void LedgerCommunicator::receive(std::span<std::byte> data, int from, int tag) {
    const Inside inside(*this, Call::receive, data.size());
    inner_->receive(data, from, tag);
}

std::unique_ptr<Request> LedgerCommunicator::start_all_gather(std::span<const std::byte> in,
                                                              std::span<std::byte> out) {
    return std::make_unique<Started>(
        *this, Started::What{Call::all_gather, in.size(), static_cast<int64_t>(in.size())},
        [&](Communicator& inner) { return inner.start_all_gather(in, out); });
}

std::unique_ptr<Request> LedgerCommunicator::start_all_to_all_v(
    std::span<const std::byte> in, std::span<const int64_t> send_counts, std::span<std::byte> out,
    std::span<const int64_t> receive_counts) {
    return std::make_unique<Started>(
        *this, Started::What{Call::all_to_all_v, in.size(), kAny}, [&](Communicator& inner) {
            return inner.start_all_to_all_v(in, send_counts, out, receive_counts);
        });
}

std::unique_ptr<Request> LedgerCommunicator::start_send(std::span<const std::byte> data, int to,
                                                        int tag) {
    return std::make_unique<Started>(
        *this, Started::What{Call::send, data.size(), kAny},
        [&](Communicator& inner) { return inner.start_send(data, to, tag); });
}

std::unique_ptr<Request> LedgerCommunicator::start_receive(std::span<std::byte> data, int from,
                                                           int tag) {
    return std::make_unique<Started>(
        *this, Started::What{Call::receive, data.size(), kAny},
        [&](Communicator& inner) { return inner.start_receive(data, from, tag); });
}

void LedgerCommunicator::all_reduce_sum(std::span<int64_t> values) {
    const Inside inside(*this, Call::all_reduce_sum, values.size_bytes());
    meet(Call::all_reduce_sum, static_cast<int64_t>(values.size_bytes()), kAny);
    inner_->all_reduce_sum(values);
}

void LedgerCommunicator::all_reduce_max(std::span<int64_t> values) {
    const Inside inside(*this, Call::all_reduce_max, values.size_bytes());
    meet(Call::all_reduce_max, static_cast<int64_t>(values.size_bytes()), kAny);
    inner_->all_reduce_max(values);
}

std::unique_ptr<Communicator> LedgerCommunicator::split(int color) {
    const Inside inside(*this, Call::split, 0);
    meet(Call::split, 0, kAny);
    return with(inner_->split(color));
}

std::unique_ptr<Communicator> LedgerCommunicator::wrapped(const Make& make) {
    return with(make(*inner_));
}

std::unique_ptr<Communicator> LedgerCommunicator::with(std::unique_ptr<Communicator> other) {
    auto ledger = std::make_unique<LedgerCommunicator>(std::move(other), &record_);
    ledger->shared_ = shared_;
    return ledger;
}

void LedgerCommunicator::progress(Phase phase, int64_t step) {
    const int64_t now = monotonic_ns();
    if (phase == Phase::load) step_began_ = now;
    if (phase == Phase::log) step_ended(now);
    if (step >= 0) record_.step.store(step, kRelaxed);
    record_.phase.store(phase, kRelaxed);
    record_.beat_at.store(now, kRelaxed);
}

void LedgerCommunicator::step_ended(int64_t now) {
    if (step_began_ == 0) return;
    if (steps_.size() == kMedianOf) steps_.erase(steps_.begin());
    steps_.push_back(now - step_began_);
    step_began_ = 0;
    std::vector<int64_t> sorted = steps_;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
    std::nth_element(sorted.begin(), middle, sorted.end());
    record_.median_step.store(*middle, kRelaxed);
}

// The greatest and the least of every number of the entry, in one exchange; only ranks that
// disagree gather who is where.
void LedgerCommunicator::meet(Call call, int64_t bytes, int64_t root, int64_t started) {
    if (!shared_->compares || size() == 1) return;
    const Entry own{static_cast<int64_t>(call), sequence_, bytes, root, started};
    std::array<int64_t, 10> most{own.call,   -own.call, own.sequence, -own.sequence, own.bytes,
                                 -own.bytes, own.root,  -own.root,    own.started,   -own.started};
    inner_->all_reduce_max(most);
    bool same = true;
    for (size_t i = 0; i < most.size(); i += 2) same = same && most[i] == -most[i + 1];
    if (same) return;
    std::vector<Entry> all(static_cast<size_t>(size()));
    inner_->all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
    fail(ExitCode::internal, "ranks meet in different collectives: ", disagreement(all));
}

std::string LedgerCommunicator::place(const Entry& entry) {
    std::string text = concat(name_of(static_cast<Call>(entry.call)), " #", entry.sequence);
    if (entry.bytes > 0) text += concat(" of ", entry.bytes, " bytes");
    if (entry.root != kAny) text += concat(" from rank ", entry.root);
    if (entry.started != kAny) text += concat(", the ", entry.started, ". started");
    return text;
}

// The odd rank against the lowest of the largest group that agrees.
std::string LedgerCommunicator::disagreement(const std::vector<Entry>& entries) {
    size_t reference = 0;
    int64_t most = 0;
    for (size_t r = 0; r < entries.size(); ++r) {
        const auto count = std::count(entries.begin(), entries.end(), entries[r]);
        if (count > most) {
            most = count;
            reference = r;
        }
    }
    size_t odd = 0;
    while (entries[odd] == entries[reference]) ++odd;
    std::string text = concat("rank ", odd, " is at ", place(entries[odd]), ", rank ", reference,
                              " at ", place(entries[reference]));
    const auto others = static_cast<int64_t>(entries.size()) - most - 1;
    if (others > 0) text += concat("; ", others, " more differ from rank ", reference);
    return text;
}

}  // namespace fucina
