#include "parallel/grain_plan.h"

#include <algorithm>

namespace fucina {
namespace {

void share(GrainRange node, int first_rank, int ranks, std::vector<GrainRange>& shares) {
    if (ranks == 1) {
        shares[static_cast<size_t>(first_rank)] = node;
        return;
    }
    share(first_half(node), first_rank, ranks / 2, shares);
    share(second_half(node), first_rank + ranks / 2, ranks / 2, shares);
}

void cut(GrainRange node, int64_t max_grains, std::vector<Pass>& passes) {
    if (node.count() <= max_grains || node.count() == 1) {
        if (node.count() > 0) passes.push_back({node, 0});
        return;
    }
    cut(first_half(node), max_grains, passes);
    cut(second_half(node), max_grains, passes);
    ++passes.back().merges;
}

}  // namespace

bool ranks_fit_tree(int ranks) {
    return ranks >= 1 && ranks <= kMaxReplicas && (ranks & (ranks - 1)) == 0;
}

std::vector<GrainRange> share_grains(int64_t grains, int ranks) {
    std::vector<GrainRange> shares(static_cast<size_t>(ranks));
    if (ranks_fit_tree(ranks)) {
        share({0, grains}, 0, ranks, shares);
        return shares;
    }
    for (int r = 0; r < ranks; ++r) {
        shares[static_cast<size_t>(r)] = {grains * r / ranks, grains * (r + 1) / ranks};
    }
    return shares;
}

std::vector<Pass> plan_passes(GrainRange node, int64_t max_grains) {
    std::vector<Pass> passes;
    cut(node, std::max<int64_t>(max_grains, 1), passes);
    return passes;
}

int held_sums(const std::vector<Pass>& passes) {
    int held = 0, most = 0;
    for (const Pass& pass : passes) {
        most = std::max(most, held + (pass.merges == 0 ? 1 : 0));
        held += 1 - pass.merges;
    }
    return most;
}

}  // namespace fucina
