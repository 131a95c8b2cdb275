// Guards against a layout that trains another model than one rank does: in exact numerics loss,
// gradient norm, counts, router biases, weights and moments are the same to the last bit.
//
// Ranks are threads here; tests/trainer/test_exactness.py runs some layouts over MPI.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <numeric>

#include "tests/layouts/train_layout.h"
#include "tests/support/expect_text.h"

namespace fucina {
namespace {

using test::expect_same;
using test::Overrides;
using test::Ranks;
using test::Trained;

// Of fp32 values, squared.
std::pair<double, double> difference_and_norm(const std::vector<std::byte>& got,
                                              const std::vector<std::byte>& expected) {
    const auto* x = reinterpret_cast<const float*>(got.data());
    const auto* y = reinterpret_cast<const float*>(expected.data());
    double difference = 0, norm = 0;
    for (size_t e = 0; e < expected.size() / sizeof(float); ++e) {
        difference += (double{x[e]} - y[e]) * (double{x[e]} - y[e]);
        norm += double{y[e]} * y[e];
    }
    return {difference, norm};
}

// A model with MTP, all losses, and a batch; each is trained by one rank and then by every layout.
struct Task {
    const char* name;
    Overrides keys;
    test::Prepare prepare = {};
};

const std::vector<Task> kTasks{
    {"fp32", {"train.precision=fp32"}},
    {"bf16", {}},
    // Sequences of more than a block of FP8's tokens, and of less.
    {"fp8",
     {"train.precision=fp8", "exact.chunks=1", "data.sequence_length=150",
      "model.max_position_embeddings=256"}},
    {"bf16_moments", {"train.moments=bf16"}},
    {"tied", {"model.tie_word_embeddings=true"}},
    {"one_chunk", {"exact.chunks=1"}},
    {"long_grains", {"exact.grain=2"}},
    {"waves", {"exact.replicas=4"}},
    {"uneven", {"train.global_batch=7", "exact.replicas=4"}},
    {"few", {"train.global_batch=3"}},
    {"experts_without_tokens", {"train.router_bias_update=0"}, test::starve(2)},
    {"ties", {}, test::make_ties},
    {"drops", {"train.expert_capacity=0.8"}},
};

std::vector<Ranks> layouts() {
    std::vector<Ranks> all{{1, 1, {"train.micro_batch=2", "train.merge_passes=false"}}};
    for (const auto& [ranks, expert] : {std::pair{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}}) {
        all.push_back({ranks, expert});
        all.push_back({ranks, expert, {"train.micro_batch=2", "train.merge_passes=false"}});
        all.push_back({ranks, expert, {"parallel.zero=1"}});
        all.push_back({ranks, expert, {"parallel.zero=2"}});
        all.push_back({ranks, expert, {"parallel.zero=3"}});
    }
    for (const char* zero : {"parallel.zero=2", "parallel.zero=3"})
        for (const auto& [ranks, expert] : {std::pair{2, 1}, {2, 2}, {4, 1}, {4, 2}})
            all.push_back(
                {ranks, expert, {zero, "train.micro_batch=2", "train.merge_passes=false"}});
    // As many waves as a rank has experts.
    all.push_back({2, 2, {"parallel.dispatch_rows=1"}});
    all.push_back({2, 2, {"parallel.dispatch_rows=40", "train.recompute=block"}});
    all.push_back({4, 2, {"parallel.dispatch_rows=1", "parallel.zero=3"}});
    all.push_back(
        {4, 4, {"parallel.dispatch_rows=1", "train.recompute=mla_up", "parallel.zero=2"}});
    all.push_back({2, 1, {"train.recompute=block", "parallel.zero=3"}});
    all.push_back({4, 2, {"train.recompute=block", "train.micro_batch=2", "parallel.zero=3"}});
    all.push_back({4, 2, {"train.recompute=block"}});
    all.push_back({2, 2, {"train.recompute=block", "train.micro_batch=2", "parallel.zero=1"}});
    all.push_back({4, 4, {"train.recompute=mla_up"}});
    return all;
}

// Where tensor-parallel ranks share the matrices; experts over multiples of them.
std::vector<Ranks> tensor_layouts() {
    std::vector<Ranks> all;
    for (const auto& [ranks, tensor, expert] :
         {std::array{2, 2, 2}, {4, 4, 4}, {4, 2, 2}, {4, 2, 4}, {8, 2, 4}, {8, 4, 8}}) {
        const Overrides keys{concat("parallel.tensor=", tensor)};
        const auto with = [&](Overrides more) {
            more.insert(more.begin(), keys.begin(), keys.end());
            all.push_back({ranks, expert, std::move(more)});
        };
        with({});
        with({"parallel.sequence=false"});
        with({"train.micro_batch=2", "train.merge_passes=false"});
    }
    for (const int zero : {1, 2, 3})
        all.push_back({4, 2, {"parallel.tensor=2", concat("parallel.zero=", zero)}});
    all.push_back({8, 4, {"parallel.tensor=2", "parallel.zero=3", "train.recompute=mla_up"}});
    all.push_back({8, 4, {"parallel.tensor=2", "parallel.zero=2"}});
    all.push_back({8, 4, {"parallel.tensor=2", "parallel.dispatch_rows=1"}});
    all.push_back(
        {4, 4, {"parallel.tensor=2", "parallel.dispatch_rows=20", "parallel.sequence=false"}});
    all.push_back({4,
                   4,
                   {"parallel.tensor=2", "parallel.zero=1", "parallel.sequence=false",
                    "train.micro_batch=2"}});
    for (const char* kind : {"norm", "mla_up", "block"})
        all.push_back({4, 4, {"parallel.tensor=2", concat("train.recompute=", kind)}});
    all.push_back(
        {2, 2, {"parallel.tensor=2", "train.recompute=block", "parallel.sequence=false"}});
    return all;
}

class Layouts : public testing::TestWithParam<Task> {};
INSTANTIATE_TEST_SUITE_P(Tasks, Layouts, testing::ValuesIn(kTasks),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(Layouts, TrainTheSameModel) {
    Overrides base = test::all_losses();
    base.insert(base.end(), GetParam().keys.begin(), GetParam().keys.end());
    const Trained expected = test::train({}, base, GetParam().prepare);
    const StepResult& last = expected.steps.back();
    EXPECT_GT(last.grad_norm, 0.5) << "clipping takes no part";
    EXPECT_GT(last.mtp_loss, 0);
    EXPECT_GT(last.balance_loss, 0);
    std::vector<Ranks> all = layouts();
    const bool chunks = std::ranges::count(base, "exact.chunks=1") == 0;
    if (chunks) std::ranges::copy(tensor_layouts(), std::back_inserter(all));
    for (const Ranks& layout : all) {
        SCOPED_TRACE(layout.name());
        expect_same(test::train(layout, base, GetParam().prepare), expected);
    }
}

// Widths of which two tensor-parallel ranks have whole blocks of FP8, but not four.
TEST(Layouts, TensorRanksShareWholeBlocksOfFp8) {
    Overrides base = test::all_losses();
    for (const char* key :
         {"train.precision=fp8", "model.qk_nope_head_dim=64", "model.qk_rope_head_dim=64",
          "model.v_head_dim=64", "model.intermediate_size=256", "model.n_shared_experts=2",
          "model.moe_intermediate_size=128"})
        base.emplace_back(key);
    const Trained expected = test::train({}, base);
    for (const Ranks& layout : {Ranks{2, 2, {"parallel.tensor=2"}},
                                {2, 2, {"parallel.tensor=2", "parallel.sequence=false"}},
                                {4, 4, {"parallel.tensor=2", "parallel.zero=3"}}}) {
        SCOPED_TRACE(layout.name());
        expect_same(test::train(layout, base), expected);
    }
    base.emplace_back("exact.chunks=4");
    const std::string refused = test::message_of(ExitCode::usage, [&] { test::train({}, base); });
    EXPECT_CONTAINS(refused, "exact.chunks = 4, but the model has 4 heads");
    EXPECT_CONTAINS(refused, "and fp8 takes shares of whole 128s; legal: 1, 2");
}

// Six experts over eight ranks.
TEST(Layouts, RanksWithoutExpertsTakePart) {
    const Trained expected = test::train({}, test::all_losses());
    for (const Overrides& more : {Overrides{},
                                  {"parallel.zero=1"},
                                  {"parallel.zero=2"},
                                  {"parallel.zero=3"},
                                  {"train.recompute=block"},
                                  {"parallel.tensor=2"}}) {
        const Ranks layout{8, 8, more};
        SCOPED_TRACE(layout.name());
        expect_same(test::train(layout, test::all_losses()), expected);
    }
}

const Overrides kIntegers{"exact.sums=integers"};

Overrides with_integers(const Overrides& more = {}) {
    Overrides keys = test::all_losses();
    keys.insert(keys.end(), kIntegers.begin(), kIntegers.end());
    keys.insert(keys.end(), more.begin(), more.end());
    return keys;
}

TEST(Layouts, SumsOfIntegersFitAnyNumberOfRanks) {
    for (const Overrides& keys :
         {Overrides{}, {"train.precision=fp32", "exact.grain=2"}, {"train.global_batch=9"}}) {
        const Trained expected = test::train({}, with_integers(keys));
        EXPECT_GT(expected.steps.back().grad_norm, 0.5) << "clipping takes no part";
        const Overrides small{"train.micro_batch=2", "train.merge_passes=false"};
        const Overrides tensor{"parallel.tensor=2"};
        for (const Ranks& layout : {Ranks{1, 1, small},
                                    {2, 1},
                                    {2, 2, small},
                                    {3, 1},
                                    {3, 3},
                                    {3, 3, small},
                                    {5, 1, {"parallel.zero=1"}},
                                    {5, 5, {"parallel.zero=2"}},
                                    {5, 1, {"parallel.zero=3"}},
                                    {6, 3, {"parallel.zero=3"}},
                                    {6, 2, {"train.recompute=block"}},
                                    {6, 3, {"parallel.zero=2"}},
                                    {6, 2, tensor},
                                    {3, 3, {"parallel.dispatch_rows=1"}},
                                    {6, 6, {"parallel.tensor=2", "parallel.sequence=false"}},
                                    {7, 1},
                                    {8, 8}}) {
            SCOPED_TRACE(layout.name());
            expect_same(test::train(layout, with_integers(keys)), expected);
        }
    }
}

// Adam's first m is a tenth of the gradient: fp32 sums of eight grains against one rounding.
TEST(Layouts, SumsOfIntegersAreNearTheTrees) {
    const Overrides keys{"train.precision=fp32"};
    Overrides tree = test::all_losses();
    tree.insert(tree.end(), keys.begin(), keys.end());
    const Trained expected = test::train({}, tree, {}, 1);
    const Trained got = test::train({}, with_integers(keys), {}, 1);
    EXPECT_EQ(got.steps[0].loss, expected.steps[0].loss);
    bool any_differs = false;
    for (const auto& [name, bytes] : expected.state) {
        if (!name.starts_with("m ")) continue;
        const auto [difference, norm] = difference_and_norm(got.state.at(name), bytes);
        EXPECT_LE(difference, 1e-14 * norm) << name;
        any_differs = any_differs || difference > 0;
    }
    EXPECT_TRUE(any_differs) << "nothing is shown";
}

TEST(Layouts, AGradientBeyondTheIntegersIsNamedAndUpdatesNothing) {
    const auto enlarge = [](Model& model) {
        Parameter* const norm = model.find("norm");
        for (int64_t i = 0; i < norm->value.size(); ++i) norm->value.data<float>()[i] = 1e6f;
    };
    for (const Ranks& layout : {Ranks{},
                                {3, 3},
                                {4, 1, {"parallel.pipeline=2"}},
                                {2, 1, {"parallel.pipeline=2", "parallel.schedule=zero_bubble"}}}) {
        const Trained got = test::train(layout, with_integers(), enlarge, 1);
        EXPECT_TRUE(std::isfinite(got.steps[0].loss));
        EXPECT_TRUE(std::isnan(got.steps[0].grad_norm));
        EXPECT_FALSE(got.steps[0].finite);
        EXPECT_EQ(got.steps[0].outside, "head");
    }
}

// In fast numerics sums have another order on other ranks, also on numbers that exact numerics
// refuse. Adam's first m is a tenth of the gradient. fp32: sums of some hundred terms, errors of
// some 2^-24.
TEST(Layouts, FastGradientsDifferByLessThanTheirBound) {
    Overrides base = test::all_losses();
    for (const char* key : {"train.precision=fp32", "train.numerics=fast", "train.clip_norm=0"})
        base.emplace_back(key);
    const Trained expected = test::train({}, base, {}, 1);
    bool any_differs = false;
    for (const Ranks& layout : {Ranks{2, 1},
                                {2, 2},
                                {3, 1},
                                {3, 3},
                                {4, 2},
                                {6, 2, {"parallel.zero=2"}},
                                {3, 1, {"parallel.zero=3"}},
                                {2, 2, {"parallel.tensor=2"}},
                                {12, 4, {"parallel.tensor=4", "parallel.sequence=false"}}}) {
        SCOPED_TRACE(layout.name());
        const Trained got = test::train(layout, base, {}, 1);
        EXPECT_NEAR(got.steps[0].loss / expected.steps[0].loss, 1, 1e-6);
        for (const auto& [name, bytes] : expected.state) {
            if (!name.starts_with("m ")) continue;
            const auto [difference, norm] = difference_and_norm(got.state.at(name), bytes);
            EXPECT_LE(difference, 1e-10 * norm) << name;
            any_differs = any_differs || difference > 0;
        }
    }
    EXPECT_TRUE(any_differs) << "nothing is shown";
}

// All tokens choose two experts of six, which take a third of each sequence, rounded up.
TEST(Layouts, CapacityDropsAndSaysHowMany) {
    Overrides base = test::all_losses();
    const Trained all = test::train({}, base, test::make_ties, 1);
    EXPECT_EQ(all.steps[0].dropped, 0);
    base.push_back("train.expert_capacity=1000");
    test::expect_same(test::train({}, base, test::make_ties),
                      test::train({}, test::all_losses(), test::make_ties));
    base.back() = "train.expert_capacity=1";
    const StepResult got = test::train({}, base, test::make_ties, 1).steps[0];
    EXPECT_EQ(got.expert_counts, all.steps[0].expert_counts) << "dropped tokens are routed too";
    int64_t choices = 0;
    for (const auto& layer : got.expert_counts)
        choices = std::accumulate(layer.begin(), layer.end(), choices);
    const auto layers = static_cast<int64_t>(got.expert_counts.size());
    EXPECT_LE(got.dropped, choices * 2 / 3);
    EXPECT_GT(got.dropped, choices * 2 / 3 - 2 * 8 * layers);
    EXPECT_NE(got.loss, all.steps[0].loss);
}

TEST(Layouts, TasksAreWhatTheySay) {
    Overrides base = test::all_losses();
    base.push_back("train.router_bias_update=0");
    const auto counts = [&](const test::Prepare& prepare) {
        return test::train({}, base, prepare).steps[0].expert_counts;
    };
    for (const auto& layer : counts(test::starve(2)))
        for (size_t e = 0; e < layer.size(); ++e) EXPECT_EQ(layer[e] > 0, e < 2);
    for (const auto& layer : counts(test::make_ties))  // the lowest ids win
        for (size_t e = 0; e < layer.size(); ++e) EXPECT_EQ(layer[e] > 0, e < 2);
}

}  // namespace
}  // namespace fucina
