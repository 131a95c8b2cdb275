// Lines that say how far a copy of many gigabytes has come, a line each five seconds.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

namespace fucina {

class TransferProgress {
  public:
    using Say = std::function<void(const std::string& line)>;

    // total: bytes to be written.
    TransferProgress(int64_t total, Say say) : total_(total), say_(std::move(say)) {}

    void add(int64_t bytes);   // were written; from any thread
    void keep(int64_t bytes);  // were there already, and take no part in the rate
    double seconds() const;    // since it was made

  private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::seconds kSpeakEvery{5};

    const int64_t total_;
    const Say say_;
    const Clock::time_point began_ = Clock::now();
    std::mutex mutex_;
    int64_t written_ = 0, kept_ = 0;
    Clock::time_point speak_at_ = began_ + kSpeakEvery;
};

}  // namespace fucina
