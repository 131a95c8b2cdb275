#include "trainer/pass_batch.h"

#include <algorithm>

#include "kernels/embedding.h"

namespace fucina {

static_assert(kIgnoreLabel == kNoLabel, "the loader and the kernels mark a missing label alike");

SumOrder sum_order(const Recipe& recipe) {
    const int64_t replicas = recipe.exact().has_replicas() ? recipe.exact().replicas() : 8;
    const bool exact = recipe.train().numerics() != "fast";
    const bool integers = exact && recipe.exact().sums() == "integers";
    return {.grain = recipe.exact().grain(),
            .replicas = static_cast<int>(replicas),
            .waves = exact && !integers,
            .integers = integers};
}

Schedule pipeline_schedule(const Recipe& recipe) {
    return schedule_named(recipe.parallel().has_schedule() ? recipe.parallel().schedule() : "1f1b");
}

BatchPlan plan_batch(const Recipe& recipe, int ranks) {
    const int64_t grain = recipe.exact().grain();
    return {(recipe.train().global_batch() + grain - 1) / grain, sum_order(recipe), ranks};
}

GradReducer::Options reducer_options(const Recipe& recipe) {
    return {.shards = recipe.parallel().zero() >= 2, .integers = sum_order(recipe).integers};
}

TokenBatch make_pass_batch(const PackedSequences& packed, int64_t begin, int64_t end,
                           int64_t grain) {
    const auto at = [&](int64_t sequence) {
        return packed.sequence_offsets[static_cast<size_t>(sequence)];
    };
    const int64_t first = at(begin), last = at(end);
    const auto cut = [&](const std::vector<int32_t>& values) {
        return std::vector<int32_t>(values.begin() + first, values.begin() + last);
    };
    TokenBatch batch;
    batch.ids = cut(packed.ids);
    batch.positions = cut(packed.positions);
    batch.labels = cut(packed.labels);
    const auto& pieces = packed.cu_seqlens;
    for (auto piece = std::upper_bound(pieces.begin(), pieces.end(), first);
         piece != pieces.end() && *piece <= last; ++piece) {
        batch.cu_seqlens.push_back(*piece - first);
    }
    for (int64_t s = begin + 1; s <= end; ++s) {
        batch.sequence_offsets.push_back(at(s) - first);
        if (s % grain == 0 || s == end) batch.grain_offsets.push_back(at(s) - first);
    }
    return batch;
}

}  // namespace fucina
