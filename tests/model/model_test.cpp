// The whole tiny model: gradients by finite differences, router bias, initial weights, cached
// decoding.
#include "model/model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/optimizer.h"
#include "kernels/runtime.h"
#include "model/layers/mtp.h"
#include "tests/support/tiny_model.h"

namespace fucina {
namespace {

using test::kAllLosses;
using test::random_documents;
using test::tiny_model;
using test::tiny_spec;

double objective(const PassResult& result, const PassOptions& pass) {
    return pass.loss_scale * result.loss.value() + pass.mtp_scale * result.mtp_loss.value() +
           pass.balance_scale * result.balance.value();
}

// Of the objective, along `direction` from `parameter`'s value.
double slope(Model& model, Parameter& parameter, const Tensor& direction, const TokenBatch& batch,
             const PassOptions& pass, double step) {
    const Tensor value = parameter.value.clone();
    double sides[2];
    for (int side = 0; side < 2; ++side) {
        const double move = side == 0 ? step : -step;
        for (int64_t i = 0; i < value.size(); ++i)
            parameter.value.data<float>()[i] =
                static_cast<float>(value.data<float>()[i] + move * direction.data<float>()[i]);
        model.repack();
        sides[side] = objective(model.forward_backward(batch, pass), pass);
    }
    std::copy_n(value.data<float>(), value.size(), parameter.value.data<float>());
    model.repack();
    return (sides[0] - sides[1]) / (2 * step);
}

// The slope along each parameter's own gradient is the square of its norm. A step of 2e-3 along the
// unit gradient: the fp32 losses of 30 tokens are good to about 1e-7, a relative error of 1e-4 for
// norms of 0.1, and the third derivative adds less than 1 %.
void check_gradients(const ModelSpec& spec, bool with_mtp, double expert_capacity = 0) {
    set_runtime(1, Numerics::exact);  // hundreds of tiny passes: threads would only wait
    Model model = tiny_model(spec, {.compute = DType::f32, .with_mtp = with_mtp});
    const TokenBatch batch = make_batch(random_documents({13, 2, 16, 1}, spec.vocab_size, 3));
    PassOptions pass = kAllLosses;
    if (!with_mtp) pass.mtp_scale = 0;
    pass.expert_capacity = expert_capacity;
    const int64_t dropped = model.forward_backward(batch, pass).dropped;
    EXPECT_EQ(dropped > 0, expert_capacity > 0) << dropped;
    std::vector<Tensor> summed;
    for (Parameter* parameter : model.parameters()) {
        if (!parameter->trained) continue;
        summed.push_back(parameter->grad().clone());
        for (size_t use = 1; use < parameter->grads.size(); ++use)
            ops::add_in_place(kHost, summed.back(), parameter->grad(use));
    }
    size_t i = 0;
    for (Parameter* parameter : model.parameters()) {
        if (!parameter->trained) continue;
        const Tensor& grad = summed[i++];
        const double norm = std::sqrt(ops::sum_of_squares(kHost, grad).value());
        ASSERT_GT(norm, 1e-5) << parameter->name << " has no gradient";
        const double measured = slope(model, *parameter, grad, batch, pass, 2e-3 / norm) / norm;
        EXPECT_NEAR(measured, norm, 0.01 * norm + 1e-4) << parameter->name;
    }
}

TEST(ModelGradients, FiniteDifferences) {
    check_gradients(tiny_spec(), true);
}

TEST(ModelGradients, FiniteDifferencesTiedWithoutQueryLatentOrSharedExpert) {
    check_gradients(tiny_spec({{"tie_word_embeddings", true},
                               {"q_lora_rank", nullptr},
                               {"n_shared_experts", 0},
                               {"norm_topk_prob", false}}),
                    true);
}

TEST(ModelGradients, FiniteDifferencesWhereTokensAreDropped) {
    // With 0.7 one step changes a token's choice, and with it the loss by a jump.
    check_gradients(tiny_spec(), true, 0.5);
}

TEST(ModelGradients, FiniteDifferencesWithYarnAndWithoutMtp) {
    const nlohmann::json yarn = {{"type", "yarn"},
                                 {"factor", 4},
                                 {"mscale", 1.0},
                                 {"mscale_all_dim", 0.7},
                                 {"original_max_position_embeddings", 16}};
    check_gradients(tiny_spec({{"rope_scaling", yarn}}), false);
}

TEST(Model, EvaluateIsTheLossOfForwardBackward) {
    const ModelSpec spec = tiny_spec();
    const TokenBatch batch = make_batch(random_documents({13, 9}, spec.vocab_size, 4));
    for (const DType compute : {DType::f32, DType::bf16}) {
        Model model = tiny_model(spec, {.compute = compute});
        EXPECT_EQ(model.evaluate(batch).loss.value(),
                  model.forward_backward(batch, {.loss_scale = 1}).loss.value());
    }
}

TEST(Model, MtpWithoutLossHasZeroGradients) {
    const ModelSpec spec = tiny_spec();
    const TokenBatch batch = make_batch(random_documents({13, 9}, spec.vocab_size, 4));
    Model model = tiny_model(spec, {.compute = DType::f32, .with_mtp = true});
    Model without = tiny_model(spec, {.compute = DType::f32});
    model.forward_backward(batch, kAllLosses);  // leaves gradients that must go
    const PassResult result = model.forward_backward(batch, {.loss_scale = 1});
    EXPECT_EQ(result.mtp_loss.value(), 0);
    EXPECT_EQ(result.loss.value(), without.forward_backward(batch, {.loss_scale = 1}).loss.value());
    for (Parameter* parameter : model.parameters()) {
        if (!parameter->trained) continue;
        const bool of_mtp = parameter->name.starts_with("mtp.");
        for (size_t use = of_mtp ? 0 : 1; use < parameter->grads.size(); ++use)
            EXPECT_EQ(ops::sum_of_squares(kHost, parameter->grad(use)).value(), 0)
                << parameter->name;
        if (of_mtp) continue;
        EXPECT_TRUE(test::bit_equal(parameter->grad(), without.find(parameter->name)->grad()))
            << parameter->name;
    }
}

TEST(Model, MtpLabelsAreTheTokensAfterNext) {
    const std::vector<std::vector<int32_t>> documents = {{5, 6, 7, 8}, {9}, {1, 2}, {3, 4, 5}};
    const TokenBatch batch = make_batch(documents);
    EXPECT_EQ(Model::count_mtp_labels(batch), 2 + 0 + 0 + 1);
    const MtpRows rows(batch);
    EXPECT_EQ(rows.rows, (std::vector<int32_t>{0, 1, 2, 5, 7, 8}));
    EXPECT_EQ(rows.next_ids, (std::vector<int32_t>{6, 7, 8, 2, 4, 5}));
    EXPECT_EQ(rows.positions, (std::vector<int32_t>{0, 1, 2, 0, 0, 1}));
    EXPECT_EQ(rows.labels,
              (std::vector<int32_t>{7, 8, kIgnoreLabel, kIgnoreLabel, 5, kIgnoreLabel}));
    EXPECT_EQ(rows.cu_seqlens, (std::vector<int64_t>{0, 3, 4, 6}));
    EXPECT_EQ(rows.grain_offsets, (std::vector<int64_t>{0, 3, 3, 4, 6}));
}

TEST(Model, RouterBiasMovesTowardsTheMeanLoad) {
    Model model = tiny_model(tiny_spec(), {.compute = DType::f32, .with_mtp = true});
    const Tensor before = model.find("layers.1.moe.router_bias")->value.clone();
    const Tensor other = model.find("layers.2.moe.router_bias")->value.clone();
    // Mean 4: below, equal, above; the other layers are balanced.
    const std::vector<int64_t> balanced(6, 3);
    model.update_router_bias({{0, 4, 9, 4, 4, 3}, balanced, balanced}, 0.001f);
    const float moves[6] = {0.001f, 0, -0.001f, 0, 0, 0.001f};
    for (int e = 0; e < 6; ++e)
        EXPECT_EQ(model.find("layers.1.moe.router_bias")->value.data<float>()[e],
                  before.data<float>()[e] + moves[e]);
    EXPECT_TRUE(test::bit_equal(model.find("layers.2.moe.router_bias")->value, other));
}

TEST(Model, InitializationIsByNameAndSeed) {
    const ModelSpec spec = tiny_spec();
    Model a(spec, {.compute = DType::f32}), b(spec, {.compute = DType::f32, .with_mtp = true});
    a.initialize(5);
    b.initialize(5);
    for (Parameter* parameter : a.parameters())
        EXPECT_TRUE(test::bit_equal(parameter->value, b.find(parameter->name)->value));
    b.initialize(6);
    const Tensor first = a.find("layers.1.moe.experts.gate_up")->value;
    EXPECT_FALSE(test::bit_equal(first, b.find("layers.1.moe.experts.gate_up")->value));
    // 3,456 draws of deviation 0.02: the mean square is within 10 % (four sigma).
    const double mean_square = ops::sum_of_squares(kHost, first).value() /
                               static_cast<double>(first.size()) / (0.02 * 0.02);
    EXPECT_NEAR(mean_square, 1, 0.1);
    EXPECT_EQ(a.find("norm")->value.data<float>()[3], 1.0f);
    EXPECT_EQ(a.find("layers.1.moe.router_bias")->value.data<float>()[3], 0.0f);
}

double relative_error(const Tensor& row, const Tensor& expected, int64_t expected_row) {
    double error = 0, largest = 0;
    for (int64_t v = 0; v < row.dim(1); ++v) {
        const double wanted = expected.row<float>(expected_row)[v];
        error = std::max(error, std::abs(row.data<float>()[v] - wanted));
        largest = std::max(largest, std::abs(wanted));
    }
    return error / largest;
}

// The cached decode folds W_kv into queries and outputs, so it agrees with the full forward up to
// fp32 rounding.
TEST(Model, CachedDecodeEqualsTheFullForward) {
    for (const bool q_lora : {true, false}) {
        const ModelSpec spec =
            tiny_spec(q_lora ? nlohmann::json::object() : nlohmann::json{{"q_lora_rank", nullptr}});
        Model model = tiny_model(spec, {.compute = DType::f32, .training = false});
        const auto documents = random_documents({19}, spec.vocab_size, 9);
        const Tensor full = model.logits(make_batch(documents));
        LatentCache cache = model.make_cache(19);
        const std::span<const int32_t> ids = documents[0];
        // A prompt of 6, single tokens, then 4 at once.
        const std::vector<size_t> cuts = {0, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 19};
        for (size_t i = 0; i + 1 < cuts.size(); ++i) {
            const Tensor step = model.extend(ids.subspan(cuts[i], cuts[i + 1] - cuts[i]), cache);
            const auto row = static_cast<int64_t>(cuts[i + 1]) - 1;
            EXPECT_LT(relative_error(step, full, row), 1e-5) << "after token " << row;
        }
    }
}

}  // namespace
}  // namespace fucina
