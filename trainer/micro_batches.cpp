#include "trainer/micro_batches.h"

#include <algorithm>

namespace fucina {
namespace {

// One pass of every data index.
using PassRow = std::vector<Pass>;

// Row by row; an index that has no more gets passes without grains.
std::vector<PassRow> rows_of_wave(const std::vector<std::vector<Pass>>& passes, size_t wave) {
    std::vector<PassRow> rows;
    for (size_t index = 0; index < passes.size(); ++index) {
        size_t row = 0;
        for (const Pass& pass : passes[index]) {
            if (pass.wave != wave) continue;
            if (row == rows.size()) rows.emplace_back(passes.size(), Pass{.wave = wave});
            rows[row++][index] = pass;
        }
    }
    return rows;
}

// MicroBatch::together, of passes by data index; `alike` of these go through them together.
bool are_together(const std::vector<std::vector<Pass>>& passes, size_t wave, size_t alike) {
    const auto count = [&](size_t index) {
        return std::ranges::count(passes[index], wave, &Pass::wave);
    };
    for (size_t index = 0; index < passes.size(); ++index)
        if (count(index) == 0 || count(index) != count(index / alike * alike)) return false;
    return true;
}

}  // namespace

std::vector<MicroBatch> make_micro_batches(const BatchPlan& plan, const MeshShape& mesh, int index,
                                           int64_t pass_grains, bool all_together) {
    std::vector<std::vector<Pass>> passes;
    for (int i = 0; i < mesh.data; ++i) passes.push_back(plan.passes(i, pass_grains));
    const int sources = mesh.expert_sources(), first = index / sources * sources;
    const int alike = all_together || mesh.pipeline > 1 ? mesh.data : sources;
    std::vector<MicroBatch> micro_batches;
    for (size_t wave = 0; wave < plan.waves().size(); ++wave) {
        const std::vector<PassRow> rows = rows_of_wave(passes, wave);
        const bool together = are_together(passes, wave, static_cast<size_t>(alike));
        for (const PassRow& row : rows) {
            const std::vector<Pass> group(row.begin() + first, row.begin() + first + sources);
            MicroBatch made{.own = row[static_cast<size_t>(index)]};
            // With one pass each their grains are a node of the wave's tree together.
            const bool integers = plan.order().integers;
            made.expert_sums = integers                         ? ExpertSums::by_grain
                               : sources > 1 && rows.size() > 1 ? ExpertSums::by_source
                                                                : ExpertSums::together;
            if (sources > 1 && made.expert_sums != ExpertSums::together)
                made.of_ranks = group;
            else if (sources > 1)
                made.of_ranks = {Pass{.wave = wave, .grains = {0, 1}}};
            made.grains_apart = !plan.one_wave() || integers || made.own.grains.count() == 0;
            made.idle = std::ranges::all_of(all_together ? row : group, [](const Pass& pass) {
                return pass.grains.count() == 0;
            });
            made.together = together;
            micro_batches.push_back(std::move(made));
        }
        micro_batches.back().ends_wave = true;
        for (size_t i = micro_batches.size(); i-- > micro_batches.size() - rows.size();) {
            micro_batches[i].last = !micro_batches[i].idle;
            if (micro_batches[i].last) break;
        }
    }
    return micro_batches;
}

}  // namespace fucina
