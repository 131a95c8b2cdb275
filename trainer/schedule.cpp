#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fucina {

double learning_rate(const Train& train, int64_t step) {
    const double most = train.learning_rate(), least = train.min_learning_rate();
    const int64_t warmup = std::min(train.warmup_steps(), train.steps());
    if (step <= warmup) return most * static_cast<double>(step) / static_cast<double>(warmup);
    const int64_t t = step - 1;
    if (train.schedule() == "cosine") {
        const double part =
            static_cast<double>(t - warmup) / static_cast<double>(train.steps() - warmup);
        return least + (most - least) * 0.5 * (1 + std::cos(std::numbers::pi * part));
    }
    if (train.schedule() == "wsd") {
        const auto decay = std::min<int64_t>(
            std::llround(train.decay_fraction() * static_cast<double>(train.steps())),
            train.steps() - warmup);
        const int64_t into = t - (train.steps() - decay);
        if (into <= 0) return most;
        return most + (least - most) * static_cast<double>(into) / static_cast<double>(decay);
    }
    return most;
}

}  // namespace fucina
