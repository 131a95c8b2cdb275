#include "trainer/straggler_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/error.h"

namespace fucina {

namespace {

// Of those with work; infinite where there are less than two.
double median_of(std::span<const double> seconds) {
    std::vector<double> sorted;
    for (const double s : seconds) {
        if (s > 0) sorted.push_back(s);
    }
    if (sorted.size() < 2) return std::numeric_limits<double>::infinity();
    std::ranges::sort(sorted);
    // Of two ranks the faster one, or a slow one would hide in the mean.
    return sorted[(sorted.size() - 1) / 2];
}

}  // namespace

StragglerWatch::StragglerWatch(std::vector<std::string> hosts, int alike)
    : hosts_(std::move(hosts)),
      alike_(alike > 0 ? static_cast<size_t>(alike) : hosts_.size()),
      slow_(hosts_.size()),
      fast_(hosts_.size()),
      said_(hosts_.size()) {}

std::optional<std::string> StragglerWatch::after(int64_t step, std::span<const double> seconds) {
    FUCINA_CHECK(seconds.size() == hosts_.size(), seconds.size(), " times of ", hosts_.size(),
                 " ranks");
    std::optional<std::string> line;
    for (size_t r = 0; r < seconds.size(); ++r) {
        const double median = median_of(seconds.subspan(r / alike_ * alike_, alike_));
        const bool slow = seconds[r] > kRatio * median && seconds[r] > median + kSeconds;
        slow_[r] = slow ? slow_[r] + 1 : 0;
        fast_[r] = slow ? 0 : fast_[r] + 1;
        if (fast_[r] >= kSteps) said_[r] = false;
        if (slow_[r] < kSteps || said_[r] || line) continue;
        said_[r] = true;
        line = fmt::format(
            "WARNING: step {}: rank {} on {} is slow: {:.3g} s a grain for {} steps, the median "
            "rank {:.3g} s ({:.1f} times); the others wait for it",
            step, r, hosts_[r], seconds[r], slow_[r], median, seconds[r] / median);
    }
    return line;
}

}  // namespace fucina
