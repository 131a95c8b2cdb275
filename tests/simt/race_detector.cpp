// See race_detector.h.
#include "tests/simt/race_detector.h"

#include <algorithm>

namespace fucina::simt {
namespace {

void join(std::vector<uint32_t>& into, const std::vector<uint32_t>& from) {
    if (into.size() < from.size()) into.resize(from.size());
    for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void join(Clock& into, const Clock& from) {
    join(into.known, from.known);
    join(into.fenced, from.fenced);
}

}  // namespace

void RaceDetector::reset(int threads) {
    threads_ = threads;
    next_agent_ = 0;
    const size_t count = static_cast<size_t>(threads), entries = count + kAgents * kParts;
    clocks_.resize(count);
    for (size_t i = 0; i < count; ++i) {
        clocks_[i].known.assign(entries, 0);
        clocks_[i].fenced.assign(count, 0);
        clocks_[i].known[i] = 1;
    }
    agent_times_.fill(0);
    bytes_.clear();
    readers_.clear();
    free_.clear();
}

void RaceDetector::release(int thread, Clock& into) {
    Clock& own = clocks_[static_cast<size_t>(thread)];
    join(into, own);
    ++own.known[static_cast<size_t>(thread)];
}

void RaceDetector::acquire(int thread, const Clock& from) {
    join(clocks_[static_cast<size_t>(thread)], from);
}

bool RaceDetector::knows(int thread, int other, uint32_t time) const {
    return known(clocks_[static_cast<size_t>(thread)], {other, time});
}

uint32_t RaceDetector::time_of(int thread) const {
    return clocks_[static_cast<size_t>(thread)].known[static_cast<size_t>(thread)];
}

void RaceDetector::fence(int thread) {
    Clock& own = clocks_[static_cast<size_t>(thread)];
    std::copy_n(own.known.begin(), own.fenced.size(), own.fenced.begin());
    ++own.known[static_cast<size_t>(thread)];
}

Operation RaceDetector::start(const Clock& before, std::string name) {
    const int agent = next_agent_++ % kAgents;
    const size_t slot = static_cast<size_t>(agent);
    Operation operation{threads_ + agent, ++agent_times_[slot], before};
    agent_names_[slot] = std::move(name);
    operation.clock.known.resize(static_cast<size_t>(threads_ + kAgents * kParts));
    operation.clock.fenced.resize(static_cast<size_t>(threads_));
    publish(operation, operation.clock);
    return operation;
}

void RaceDetector::publish(const Operation& operation, Clock& into) const {
    if (into.known.empty()) into.known.resize(operation.clock.known.size());
    for (size_t part = 0; part < kParts; ++part) {
        uint32_t& entry = into.known[first_part(operation.agent) + part];
        entry = std::max(entry, operation.time);
    }
}

void RaceDetector::merge(const Clock& from, Clock& into) {
    join(into, from);
}

void RaceDetector::finish(const Operation& operation, int thread, int part) {
    Clock& own = clocks_[static_cast<size_t>(thread)];
    if (part < 0) return publish(operation, own);
    uint32_t& entry = own.known[first_part(operation.agent) + static_cast<size_t>(part)];
    entry = std::max(entry, operation.time);
}

std::string RaceDetector::name_of(int who) const {
    if (who < threads_) return "thread " + std::to_string(who);
    return agent_names_[static_cast<size_t>(who - threads_)];
}

std::optional<Conflict> RaceDetector::access(int thread, uint32_t address, uint32_t bytes,
                                             bool write) {
    const Clock& clock = clocks_[static_cast<size_t>(thread)];
    return access(clock, {thread, clock.known[static_cast<size_t>(thread)]}, address, bytes, write);
}

std::optional<Conflict> RaceDetector::access(const Operation& operation, uint32_t address,
                                             uint32_t bytes, bool write) {
    return access(operation.clock, {operation.agent, operation.time}, address, bytes, write);
}

// Neighbours mostly have one history, and then one future.
std::optional<Conflict> RaceDetector::access(const Clock& clock, Epoch now, uint32_t address,
                                             uint32_t bytes, bool write) {
    for (uint32_t begin = address, end = begin; begin < address + bytes; begin = end) {
        while (++end < address + bytes && bytes_[end] == bytes_[begin]) continue;
        if (const auto conflict = access_run(clock, now, begin, end, write)) return conflict;
    }
    return std::nullopt;
}

std::optional<Conflict> RaceDetector::access_run(const Clock& clock, Epoch now, uint32_t begin,
                                                 uint32_t end, bool write) {
    Byte byte = bytes_[begin];
    if (!write && byte.write.who < 0)
        return Conflict{Conflict::Kind::never_written, begin, -1, false};
    if (!known(clock, byte.write))
        return Conflict{Conflict::Kind::unordered, begin, byte.write.who, true};
    const bool by_operation = now.who >= threads_;
    if (by_operation && byte.write.who >= 0 && byte.write.who < threads_ &&
        clock.fenced[static_cast<size_t>(byte.write.who)] < byte.write.time)
        return Conflict{Conflict::Kind::not_fenced, begin, byte.write.who, true};
    if (write) {
        const int reader = unordered_reader(byte, clock);
        if (reader >= 0) return Conflict{Conflict::Kind::unordered, begin, reader, false};
        if (byte.readers >= 0) leave_readers(byte.readers, end - begin);
        byte = Byte{now, {}, {}, -1};
    } else {
        record_read(byte, end - begin, clock, now);
    }
    std::fill(bytes_.begin() + begin, bytes_.begin() + end, byte);
    return std::nullopt;
}

int32_t RaceDetector::new_readers(uint32_t count) {
    if (free_.empty()) {
        free_.push_back(static_cast<int32_t>(readers_.size()));
        readers_.emplace_back();
    }
    const int32_t index = free_.back();
    free_.pop_back();
    readers_[static_cast<size_t>(index)].bytes = count;
    return index;
}

void RaceDetector::leave_readers(int32_t index, uint32_t count) {
    Readers& readers = readers_[static_cast<size_t>(index)];
    readers.bytes -= count;
    if (readers.bytes == 0) free_.push_back(index);
}

// Bytes share a list of readers until some of them are read alone.
void RaceDetector::record_read(Byte& byte, uint32_t count, const Clock& clock, Epoch now) {
    if (byte.readers < 0) {
        for (Epoch* read : {&byte.read, &byte.second_read})
            if (known(clock, *read)) {
                *read = now;
                return;
            }
        byte.readers = new_readers(count);
        std::vector<uint32_t>& times = readers_[static_cast<size_t>(byte.readers)].times;
        times.assign(static_cast<size_t>(threads_ + kAgents), 0);
        for (const Epoch& first : {byte.read, byte.second_read})
            times[static_cast<size_t>(first.who)] = first.time;
    }
    const auto who = static_cast<size_t>(now.who), shared = static_cast<size_t>(byte.readers);
    if (readers_[shared].times[who] == now.time) return;
    if (readers_[shared].bytes > count) {
        leave_readers(byte.readers, count);
        byte.readers = new_readers(count);
        readers_[static_cast<size_t>(byte.readers)].times = readers_[shared].times;
    }
    readers_[static_cast<size_t>(byte.readers)].times[who] = now.time;
}

int RaceDetector::unordered_reader(const Byte& byte, const Clock& clock) const {
    if (byte.readers < 0) {
        if (!known(clock, byte.read)) return byte.read.who;
        return known(clock, byte.second_read) ? -1 : byte.second_read.who;
    }
    const std::vector<uint32_t>& times = readers_[static_cast<size_t>(byte.readers)].times;
    for (size_t i = 0; i < times.size(); ++i)
        if (!known(clock, {static_cast<int32_t>(i), times[i]})) return static_cast<int>(i);
    return -1;
}

}  // namespace fucina::simt
