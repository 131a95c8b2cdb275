// Guards against a pipeline that trains another model than one rank does: by any schedule, with any
// number of micro-batches, layers that are shared out unevenly, and weights that the first stage
// and the last share.
#include <gtest/gtest.h>

#include "tests/layouts/train_layout.h"

namespace fucina {
namespace {

using test::expect_same;
using test::Overrides;
using test::Ranks;
using test::Trained;

// Two dense layers and three of experts: with two stages or more the first has no experts if it has
// two layers.
Overrides five_layers(const Overrides& more = {}) {
    Overrides keys = test::all_losses();
    for (const char* key : {"model.num_hidden_layers=5", "model.first_k_dense_replace=2",
                            "train.micro_batch=1", "train.merge_passes=false"})
        keys.emplace_back(key);
    keys.insert(keys.end(), more.begin(), more.end());
    return keys;
}

Ranks pipeline(int ranks, int stages, int expert, const std::string& schedule,
               const Overrides& more = {}) {
    Ranks layout{
        ranks, expert, {concat("parallel.pipeline=", stages), "parallel.schedule=" + schedule}};
    layout.more.insert(layout.more.end(), more.begin(), more.end());
    return layout;
}

struct Task {
    const char* name;
    Overrides keys;
};

const std::vector<Task> kTasks{
    {"bf16", {}},
    {"fp32_tied", {"train.precision=fp32", "model.tie_word_embeddings=true"}},
    {"without_mtp", {"train.mtp_loss=0"}},
    {"tied_without_mtp", {"train.mtp_loss=0", "model.tie_word_embeddings=true"}},
    {"waves", {"exact.replicas=4"}},
    {"uneven_waves", {"train.global_batch=7", "exact.replicas=4"}},
    {"few_micro_batches", {"train.global_batch=3", "model.tie_word_embeddings=true"}},
    {"integers", {"exact.sums=integers"}},
    {"integers_tied",
     {"exact.sums=integers", "model.tie_word_embeddings=true", "train.global_batch=7"}},
};

std::vector<Ranks> layouts() {
    std::vector<Ranks> all;
    for (const char* schedule : {"1f1b", "interleaved", "zero_bubble"}) {
        all.push_back(pipeline(2, 2, 1, schedule));
        all.push_back(pipeline(2, 2, 1, schedule, {"train.micro_batch=4"}));
        all.push_back(pipeline(4, 2, 1, schedule));
        all.push_back(pipeline(4, 2, 2, schedule));
        all.push_back(pipeline(4, 2, 2, schedule, {"train.recompute=block", "parallel.zero=1"}));
        for (const int zero : {1, 2, 3}) {
            const std::string key = concat("parallel.zero=", zero);
            all.push_back(pipeline(4, 2, 1, schedule, {key}));
            all.push_back(pipeline(4, 2, 1, schedule, {key, "train.micro_batch=4"}));
            all.push_back(pipeline(8, 2, 2, schedule, {key, "train.micro_batch=2"}));
        }
        all.push_back(pipeline(4, 2, 2, schedule, {"parallel.zero=3", "train.recompute=block"}));
    }
    all.push_back(pipeline(3, 3, 1, "1f1b"));
    all.push_back(pipeline(4, 4, 1, "1f1b"));
    all.push_back(pipeline(4, 4, 1, "zero_bubble", {"train.micro_batch=2"}));
    all.push_back(pipeline(8, 4, 2, "1f1b", {"train.recompute=mla_up"}));
    all.push_back(pipeline(8, 2, 2, "zero_bubble", {"parallel.zero=1", "train.micro_batch=2"}));
    all.push_back(pipeline(6, 3, 1, "zero_bubble", {"parallel.zero=3"}));
    all.push_back(pipeline(2, 2, 1, "1f1b", {"parallel.zero=3"}));
    all.push_back(pipeline(2, 2, 1, "1f1b", {"parallel.stage_layers=[1, 4]"}));
    all.push_back(pipeline(2, 2, 1, "1f1b", {"parallel.stage_layers=[4, 1]"}));
    all.push_back(pipeline(2, 2, 1, "interleaved", {"parallel.stage_layers=[1, 1, 2, 1]"}));
    return all;
}

class Pipelines : public testing::TestWithParam<Task> {};
INSTANTIATE_TEST_SUITE_P(Tasks, Pipelines, testing::ValuesIn(kTasks),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Pipelines, TrainTheSameModel) {
    const Overrides base = five_layers(GetParam().keys);
    const Trained expected = test::train({}, base);
    EXPECT_GT(expected.steps.back().grad_norm, 0.5) << "clipping takes no part";
    for (const Ranks& layout : layouts()) {
        SCOPED_TRACE(layout.name());
        expect_same(test::train(layout, base), expected);
    }
}

TEST(Pipelines, WithTensorParallelRanks) {
    const Overrides base = five_layers();
    const Trained expected = test::train({}, base);
    for (const char* schedule : {"1f1b", "interleaved", "zero_bubble"}) {
        for (const Ranks& layout :
             {pipeline(4, 2, 2, schedule, {"parallel.tensor=2"}),
              pipeline(4, 2, 2, schedule, {"parallel.tensor=2", "parallel.sequence=false"}),
              pipeline(8, 2, 4, schedule, {"parallel.tensor=2", "train.recompute=block"}),
              pipeline(8, 2, 2, schedule, {"parallel.tensor=2", "parallel.zero=3"})}) {
            SCOPED_TRACE(layout.name());
            expect_same(test::train(layout, base), expected);
        }
    }
}

// A stage of dense layers alone takes part in nothing that experts do.
TEST(Pipelines, AStageWithoutExperts) {
    const Overrides base = five_layers({"model.first_k_dense_replace=3"});
    const Trained expected = test::train({}, base);
    for (const char* schedule : {"1f1b", "zero_bubble"}) {
        const Ranks layout =
            pipeline(4, 2, 2, schedule, {"parallel.stage_layers=[3, 2]", "train.micro_batch=2"});
        SCOPED_TRACE(layout.name());
        expect_same(test::train(layout, base), expected);
    }
}

}  // namespace
}  // namespace fucina
