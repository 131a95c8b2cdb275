#include "trainer/balance_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace fucina {
namespace {

// What the few busiest experts take of all choices.
double share_of_busiest(std::vector<int64_t> counts, int64_t experts) {
    const auto total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    std::sort(counts.begin(), counts.end(), std::greater<>());
    const auto most = std::accumulate(counts.begin(), counts.begin() + experts, int64_t{0});
    return static_cast<double>(most) / static_cast<double>(std::max<int64_t>(total, 1));
}

// Where even and collapsed lie close together, chance alone must not cross it.
double limit_of(const RouterConfig& router) {
    const double most = static_cast<double>(router.experts) / static_cast<double>(router.top_k);
    return std::max(std::sqrt(most), 1.5);
}

}  // namespace

double expert_load(const std::vector<int64_t>& counts) {
    int64_t most = 0, total = 0;
    for (const int64_t count : counts) {
        most = std::max(most, count);
        total += count;
    }
    if (total == 0) return 0;
    return static_cast<double>(most) * static_cast<double>(counts.size()) /
           static_cast<double>(total);
}

BalanceWatch::BalanceWatch(const ModelSpec& spec, double bias_update, double learning_rate)
    : spec_(spec),
      bias_update_(bias_update),
      learning_rate_(learning_rate),
      limit_(limit_of(spec.moe.router)) {}

std::optional<std::string> BalanceWatch::after(
    int64_t step, const std::vector<std::vector<int64_t>>& expert_counts) {
    since_.resize(expert_counts.size(), 0);
    size_t worst = expert_counts.size(), layers = 0;
    for (size_t l = 0; l < expert_counts.size(); ++l) {
        const double load = expert_load(expert_counts[l]);
        if (load <= limit_)
            since_[l] = 0;
        else if (since_[l] == 0)
            since_[l] = step;
        if (since_[l] == 0 || step - since_[l] + 1 < kSteps) continue;
        ++layers;
        if (worst == expert_counts.size() || load > expert_load(expert_counts[worst])) worst = l;
    }
    if (layers == 0 || step < next_) return std::nullopt;
    next_ = 2 * step;
    std::string text = describe(worst, expert_counts[worst]);
    if (layers > 1) text += fmt::format("; so in {} layers", layers);
    return text;
}

std::string BalanceWatch::describe(size_t layer, const std::vector<int64_t>& counts) const {
    const auto index = static_cast<int64_t>(layer);
    const std::string name = index < spec_.moe_layers()
                                 ? fmt::format("layer {}", spec_.dense_layers + index)
                                 : std::string("the MTP layer");
    const RouterConfig& router = spec_.moe.router;
    const std::string remedy =
        bias_update_ > 0
            ? fmt::format(
                  "train.router_bias_update = {:g} does not keep up with "
                  "train.learning_rate = {:g}; try {:g}",
                  bias_update_, learning_rate_, std::max(5 * learning_rate_, 3 * bias_update_))
            : fmt::format("train.router_bias_update = 0 balances nothing; try {:g}",
                          5 * learning_rate_);
    return fmt::format(
        "WARNING: {}: the {} busiest of {} experts have taken most tokens since step "
        "{}, {:.0f} % now; {}",
        name, router.top_k, router.experts, since_[layer],
        100 * share_of_busiest(counts, router.top_k), remedy);
}

}  // namespace fucina
