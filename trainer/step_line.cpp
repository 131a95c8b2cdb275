#include "trainer/step_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fucina {

std::string duration_text(double seconds) {
    const auto whole = static_cast<int64_t>(std::llround(std::max(seconds, 0.0)));
    if (whole >= 3600) return fmt::format("{}h{:02d}m", whole / 3600, whole / 60 % 60);
    if (whole >= 60) return fmt::format("{}m{:02d}s", whole / 60, whole % 60);
    return fmt::format("{}s", whole);
}

std::string thousands(double value) {
    std::string digits = fmt::format("{:.0f}", value);
    for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3) {
        digits.insert(static_cast<size_t>(at), ",");
    }
    return digits;
}

std::string StepLine::text(const StepMetrics& metrics, double seconds, double peak_share) {
    // The first step pays for warming up and counts little.
    mean_seconds_ = mean_seconds_ == 0 ? seconds : 0.9 * mean_seconds_ + 0.1 * seconds;
    std::string text = fmt::format("step {}/{}  loss {:.4f}  grad {:.3g}  lr {:.3g}  {} tok/s",
                                   metrics.step, last_step_, metrics.loss, metrics.grad_norm,
                                   metrics.lr, thousands(metrics.tokens_per_s));
    text += fmt::format("  peak {:.1f}%", 100 * peak_share);
    if (metrics.compute_s && metrics.exposed_s)
        text += fmt::format("  compute {:.3g} s, exposed communication {:.3g} s",
                            *metrics.compute_s, *metrics.exposed_s);
    if (!metrics.expert_load.empty()) {
        text += fmt::format("  load {:.2f}", *std::max_element(metrics.expert_load.begin(),
                                                               metrics.expert_load.end()));
    }
    if (metrics.dropped)
        text += fmt::format("  dropped {}", thousands(static_cast<double>(*metrics.dropped)));
    if (metrics.valid_loss) text += fmt::format("  valid {:.4f}", *metrics.valid_loss);
    const auto left = static_cast<double>(last_step_ - metrics.step);
    text += fmt::format("  eta {}", duration_text(left * mean_seconds_));
    return text;
}

}  // namespace fucina
