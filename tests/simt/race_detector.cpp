// See race_detector.h.
#include "tests/simt/race_detector.h"

#include <algorithm>

namespace fucina::simt {
namespace {

void join(Clock& into, const Clock& from) {
    if (into.size() < from.size()) into.resize(from.size());
    for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

}  // namespace

void RaceDetector::reset(int threads) {
    const size_t count = static_cast<size_t>(threads);
    clocks_.resize(count);
    for (size_t i = 0; i < count; ++i) {
        clocks_[i].assign(count, 0);
        clocks_[i][i] = 1;
    }
    bytes_.clear();
    readers_.clear();
    free_.clear();
}

void RaceDetector::release(int thread, Clock& into) {
    Clock& own = clocks_[static_cast<size_t>(thread)];
    join(into, own);
    ++own[static_cast<size_t>(thread)];
}

void RaceDetector::acquire(int thread, const Clock& from) {
    join(clocks_[static_cast<size_t>(thread)], from);
}

std::optional<Conflict> RaceDetector::access(int thread, uint32_t address, uint32_t bytes,
                                             bool write) {
    const Clock& clock = clocks_[static_cast<size_t>(thread)];
    const Epoch now{thread, clock[static_cast<size_t>(thread)]};
    for (uint32_t at = address; at < address + bytes; ++at) {
        Byte& byte = bytes_[at];
        if (!write && byte.write.thread < 0)
            return Conflict{Conflict::Kind::never_written, at, -1, false};
        if (!known(clock, byte.write))
            return Conflict{Conflict::Kind::unordered, at, byte.write.thread, true};
        if (!write) {
            record_read(byte, clock, now);
            continue;
        }
        const int reader = unordered_reader(byte, clock);
        if (reader >= 0) return Conflict{Conflict::Kind::unordered, at, reader, false};
        if (byte.readers >= 0) free_.push_back(byte.readers);
        byte = Byte{now, {}, -1};
    }
    return std::nullopt;
}

void RaceDetector::record_read(Byte& byte, const Clock& clock, Epoch now) {
    if (byte.readers < 0 && known(clock, byte.read)) {
        byte.read = now;
        return;
    }
    if (byte.readers < 0) {
        if (free_.empty()) {
            free_.push_back(static_cast<int32_t>(readers_.size()));
            readers_.emplace_back();
        }
        byte.readers = free_.back();
        free_.pop_back();
        Clock& first = readers_[static_cast<size_t>(byte.readers)];
        first.assign(clock.size(), 0);
        first[static_cast<size_t>(byte.read.thread)] = byte.read.time;
    }
    readers_[static_cast<size_t>(byte.readers)][static_cast<size_t>(now.thread)] = now.time;
}

int RaceDetector::unordered_reader(const Byte& byte, const Clock& clock) const {
    if (byte.readers < 0) return known(clock, byte.read) ? -1 : byte.read.thread;
    const Clock& readers = readers_[static_cast<size_t>(byte.readers)];
    for (size_t i = 0; i < readers.size(); ++i)
        if (readers[i] > clock[i]) return static_cast<int>(i);
    return -1;
}

}  // namespace fucina::simt
