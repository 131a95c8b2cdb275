#include "parallel/batch_plan.h"

#include <algorithm>

namespace fucina {
namespace {

void cut(size_t wave, GrainRange node, int64_t max_grains, std::vector<Pass>& passes) {
    if (node.count() <= max_grains || node.count() == 1) {
        if (node.count() > 0) passes.push_back({wave, node, 0, false});
        return;
    }
    cut(wave, first_half(node), max_grains, passes);
    cut(wave, second_half(node), max_grains, passes);
    ++passes.back().merges;
}

}  // namespace

bool ranks_fit_tree(int ranks, const SumOrder& order) {
    return ranks >= 1 && order.replicas % ranks == 0;
}

BatchPlan::BatchPlan(int64_t grains, const SumOrder& order, int ranks)
    : order_(order), ranks_(ranks) {
    FUCINA_CHECK(grains > 0, "a batch of ", grains, " grains");
    const int64_t waves = order.waves ? (grains + order.replicas - 1) / order.replicas : 1;
    for (int64_t w = 0; w < waves; ++w)
        waves_.push_back({grains * w / waves, grains * (w + 1) / waves});
}

GrainRange BatchPlan::share(size_t wave, int rank) const {
    const GrainRange whole = waves_[wave];
    if (!ranks_fit_tree(ranks_, order_))
        return {whole.begin + whole.count() * rank / ranks_,
                whole.begin + whole.count() * (rank + 1) / ranks_};
    GrainRange node = whole;
    for (int half = ranks_ / 2; half > 0; half /= 2)
        node = (rank & half) != 0 ? second_half(node) : first_half(node);
    return node;
}

std::vector<GrainRange> BatchPlan::shares(int rank) const {
    std::vector<GrainRange> shares;
    for (size_t wave = 0; wave < waves_.size(); ++wave) shares.push_back(share(wave, rank));
    return shares;
}

bool BatchPlan::holds(int rank) const {
    return std::ranges::any_of(shares(rank), [](GrainRange part) { return part.count() > 0; });
}

// Halving the replicas halves a wave's grains as the tree does.
int BatchPlan::replica(size_t wave, int64_t grain) const {
    GrainRange node = waves_[wave];
    int first = 0;
    for (int size = order_.replicas / 2; size > 0; size /= 2) {
        const bool right = grain >= first_half(node).end;
        node = right ? second_half(node) : first_half(node);
        if (right) first += size;
    }
    return first;
}

std::vector<Pass> BatchPlan::passes(int rank, int64_t max_grains) const {
    std::vector<Pass> passes;
    for (size_t wave = 0; wave < waves_.size(); ++wave) {
        const size_t before = passes.size();
        cut(wave, share(wave, rank), std::max<int64_t>(max_grains, 1), passes);
        if (passes.size() > before) passes.back().ends_wave = true;
    }
    return passes;
}

}  // namespace fucina
