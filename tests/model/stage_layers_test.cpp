// Guards against stages that are as uneven as layers counted alone would make them.
#include "model/stage_layers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/support/tiny_model.h"

namespace fucina {
namespace {

int64_t costliest(const ModelSpec& spec, const std::vector<int64_t>& counts, bool with_mtp) {
    int64_t most = 0, layer = 0;
    for (size_t stage = 0; stage < counts.size(); ++stage) {
        int64_t cost = stage + 1 == counts.size() ? end_cost(spec, with_mtp) : 0;
        for (int64_t i = 0; i < counts[stage]; ++i) cost += layer_cost(spec, layer++);
        most = std::max(most, cost);
    }
    return most;
}

// Over all ways.
int64_t least(const ModelSpec& spec, std::vector<int64_t>& counts, int stages, int64_t left,
              bool with_mtp) {
    if (stages == 1) {
        counts.push_back(left);
        const int64_t cost = costliest(spec, counts, with_mtp);
        counts.pop_back();
        return cost;
    }
    int64_t best = std::numeric_limits<int64_t>::max();
    for (int64_t count = 1; count <= left - stages + 1; ++count) {
        counts.push_back(count);
        best = std::min(best, least(spec, counts, stages - 1, left - count, with_mtp));
        counts.pop_back();
    }
    return best;
}

TEST(StageLayers, CostAsLittleAsCanBe) {
    for (const int64_t vocab : {37, 1000}) {
        for (const int64_t layers : {3, 4, 7, 9}) {
            const ModelSpec spec = test::tiny_spec({{"num_hidden_layers", layers},
                                                    {"first_k_dense_replace", 2},
                                                    {"intermediate_size", 200},
                                                    {"vocab_size", vocab}});
            for (int stages = 1; stages <= layers; ++stages) {
                for (const bool with_mtp : {false, true}) {
                    const std::vector<int64_t> counts = split_layers(spec, stages, with_mtp);
                    ASSERT_EQ(std::ssize(counts), stages);
                    EXPECT_GE(*std::ranges::min_element(counts), 1);
                    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), layers);
                    std::vector<int64_t> chosen;
                    EXPECT_EQ(costliest(spec, counts, with_mtp),
                              least(spec, chosen, stages, layers, with_mtp))
                        << layers << " layers, " << stages << " stages";
                }
            }
        }
    }
}

TEST(StageLayers, ALargeVocabularyLeavesTheLastStageFewer) {
    const ModelSpec spec = test::tiny_spec(
        {{"num_hidden_layers", 8}, {"first_k_dense_replace", 0}, {"vocab_size", 600}});
    const std::vector<int64_t> counts = split_layers(spec, 2, false);
    EXPECT_GT(counts[0], counts[1]);
}

}  // namespace
}  // namespace fucina
