#include "trainer/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/arena.h"
#include "parallel/grad_reducer.h"

namespace fucina {
namespace {

// How much more memory than the recipe's micro-batches need may be spent on merging them. A pass
// less is a writing, and an adding, of all gradients less.
constexpr double kMostGrowth = 1.1;

struct Sizes {
    int64_t values = 0, gradients = 0, packed = 0, moments = 0;  // bytes
};

Sizes measure(const Recipe& recipe, Model& model) {
    const int64_t compute = recipe.train().precision() == "bf16" ? 2 : 4;
    const int64_t moment = recipe.train().moments() == "bf16" ? 2 : 4;
    Sizes sizes;
    for (const Parameter* parameter : model.parameters()) {
        const int64_t count = parameter->value.size();
        sizes.values += 4 * count;
        if (parameter->gemm) sizes.packed += 2 * compute * count;  // forward and dgrad
        if (!parameter->trained) continue;
        sizes.gradients += 4 * count * static_cast<int64_t>(parameter->grads.size());
        sizes.moments += 2 * moment * count;
    }
    return sizes;
}

int64_t longest_pass(const std::vector<Pass>& passes) {
    int64_t most = 0;
    for (const Pass& pass : passes) most = std::max(most, pass.grains.count());
    return most;
}

}  // namespace

int64_t MemoryPlan::total() const {
    int64_t sum = 0;
    for (const auto& [purpose, bytes] : predicted) sum += bytes;
    return sum;
}

MemoryPlan plan_memory(const Recipe& recipe, Model& model, GrainRange own, int ranks) {
    const Sizes sizes = measure(recipe, model);
    const int64_t grain = recipe.exact().grain();
    const int64_t grain_tokens = grain * recipe.data().sequence_length();
    const auto plan_for = [&](int64_t grains) {
        MemoryPlan plan{.passes = plan_passes(own, grains), .predicted = {}};
        plan.predicted = {
            {"weights", sizes.values},
            {"packed weights", sizes.packed},
            {"moments", sizes.moments},
            {"gradients", sizes.gradients * held_sums(plan.passes)},
            {"activations", model.activation_bytes(longest_pass(plan.passes) * grain_tokens)},
            {"communication",
             ranks > 1 ? 2 * std::min(GradReducer::kBucketBytes, sizes.gradients) : 0}};
        return plan;
    };
    MemoryPlan best = plan_for(std::max<int64_t>(recipe.train().micro_batch() / grain, 1));
    const auto bound = static_cast<int64_t>(kMostGrowth * static_cast<double>(best.total()));
    while (recipe.train().merge_passes() && best.passes.size() > 1) {
        MemoryPlan merged = plan_for(2 * longest_pass(best.passes));
        if (merged.total() > bound) break;
        best = std::move(merged);
    }
    return best;
}

std::vector<std::string> memory_table(const MemoryPlan& plan, bool measured) {
    const std::vector<MemoryUse> used = Arena::process().table();
    const auto peak_of = [&](const std::string& purpose) {
        for (const MemoryUse& use : used) {
            if (use.purpose == purpose) return use.peak;
        }
        return int64_t{0};
    };
    const auto row = [&](const std::string& name, int64_t predicted, int64_t peak) {
        std::string text =
            fmt::format("  {:<16}{:>9.1f} MiB", name, static_cast<double>(predicted) / (1 << 20));
        if (measured) text += fmt::format("{:>9.1f} MiB", static_cast<double>(peak) / (1 << 20));
        return text;
    };
    std::vector<std::string> lines{measured ? "memory           predicted     measured"
                                            : "memory           predicted"};
    int64_t peaks = 0;
    for (const auto& [purpose, bytes] : plan.predicted) {
        const int64_t peak = peak_of(purpose);
        peaks += peak;
        if (bytes > 0 || peak > 0) lines.push_back(row(purpose, bytes, peak));
    }
    lines.push_back(row("in all", plan.total(), peaks));
    return lines;
}

}  // namespace fucina
