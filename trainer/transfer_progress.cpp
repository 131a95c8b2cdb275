#include "trainer/transfer_progress.h"

#include <fmt/format.h>

#include <algorithm>

#include "trainer/seconds_since.h"
#include "trainer/step_line.h"

namespace fucina {

void TransferProgress::add(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    written_ += bytes;
    const auto now = Clock::now();
    if (now < speak_at_) return;
    speak_at_ = now + kSpeakEvery;
    const auto there = static_cast<double>(written_ + kept_), all = static_cast<double>(total_);
    const double rate = static_cast<double>(written_) / std::max(seconds(), 1e-9);
    say_(fmt::format("{:.1f} of {:.1f} GB written, {:.0f} MB/s, eta {}", there / 1e9, all / 1e9,
                     rate / 1e6, duration_text((all - there) / rate)));
}

void TransferProgress::keep(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    kept_ += bytes;
}

double TransferProgress::seconds() const {
    return seconds_since(began_);
}

}  // namespace fucina
