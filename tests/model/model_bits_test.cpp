// Numbers of the whole tiny model that must not depend on how a step is cut, packed or recomputed:
// bit for bit.
#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "kernels/optimizer.h"
#include "kernels/runtime.h"
#include "model/weight_grad_queue.h"
#include "tests/support/kernel_case.h"
#include "tests/support/tiny_model.h"

namespace fucina {
namespace {

using test::kAllLosses;
using test::random_documents;
using test::tiny_model;
using test::tiny_spec;

std::vector<Tensor> gradients(Model& model) {
    std::vector<Tensor> all;
    for (Parameter* parameter : model.parameters())
        if (parameter->trained)
            for (size_t use = 0; use < parameter->grads.size(); ++use)
                all.push_back(parameter->grad(use).clone());
    return all;
}

void expect_bit_equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b, Model& model) {
    ASSERT_EQ(a.size(), b.size());
    size_t i = 0;
    for (Parameter* parameter : model.parameters()) {
        if (!parameter->trained) continue;
        for (size_t use = 0; use < parameter->grads.size(); ++use, ++i)
            EXPECT_TRUE(test::bit_equal(a[i], b[i])) << parameter->name << " use " << use;
    }
}

class ModelBits : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, ModelBits, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(ModelBits, RecomputeChangesNothing) {
    for (const bool q_lora : {true, false}) {
        const ModelSpec spec =
            tiny_spec(q_lora ? nlohmann::json::object() : nlohmann::json{{"q_lora_rank", nullptr}});
        const TokenBatch batch = make_batch(random_documents({13, 9, 16}, spec.vocab_size, 5));
        Model plain = tiny_model(spec, {.compute = GetParam(), .with_mtp = true});
        const PassResult expected = plain.forward_backward(batch, kAllLosses);
        for (const RecomputeKind kind :
             {RecomputeKind::norm, RecomputeKind::mla_up, RecomputeKind::block}) {
            SCOPED_TRACE(static_cast<int>(kind));
            Model model =
                tiny_model(spec, {.compute = GetParam(), .recompute = kind, .with_mtp = true});
            const PassResult result = model.forward_backward(batch, kAllLosses);
            EXPECT_EQ(result.loss.value(), expected.loss.value());
            EXPECT_EQ(result.mtp_loss.value(), expected.mtp_loss.value());
            EXPECT_EQ(result.balance.value(), expected.balance.value());
            EXPECT_EQ(result.expert_counts, expected.expert_counts);
            expect_bit_equal(gradients(model), gradients(plain), model);
        }
    }
}

// Neighbours become their parent, until one node is left.
std::vector<Tensor> sum_nodes(std::vector<std::vector<Tensor>> nodes) {
    while (nodes.size() > 1) {
        std::vector<std::vector<Tensor>> parents;
        for (size_t n = 0; n < nodes.size(); n += 2) {
            for (size_t i = 0; i < nodes[n].size(); ++i)
                ops::add_in_place(kHost, nodes[n][i], nodes[n + 1][i]);
            parents.push_back(nodes[n]);
        }
        nodes = std::move(parents);
    }
    return nodes[0];
}

// One pass of four grains, two of two and four of one: nodes of the same tree.
TEST_P(ModelBits, CutIntoPassesChangesNothing) {
    const ModelSpec spec = tiny_spec({{"tie_word_embeddings", true}});
    const auto documents = random_documents({13, 9, 16, 5}, spec.vocab_size, 6);
    Model model = tiny_model(spec, {.compute = GetParam(), .with_mtp = true});
    const PassResult whole = model.forward_backward(make_batch(documents), kAllLosses);
    const std::vector<Tensor> expected = gradients(model);
    for (const size_t size : {size_t{2}, size_t{1}}) {
        SCOPED_TRACE(size);
        std::vector<std::vector<Tensor>> nodes;
        PassResult joined;
        joined.expert_counts.assign(whole.expert_counts.size(),
                                    std::vector<int64_t>(whole.expert_counts[0].size(), 0));
        for (size_t first = 0; first < documents.size(); first += size) {
            const PassResult part = model.forward_backward(
                make_batch(std::span(documents).subspan(first, size)), kAllLosses);
            nodes.push_back(gradients(model));
            joined.loss.add(part.loss);
            joined.mtp_loss.add(part.mtp_loss);
            joined.balance.add(part.balance);
            for (size_t l = 0; l < part.expert_counts.size(); ++l)
                for (size_t e = 0; e < part.expert_counts[l].size(); ++e)
                    joined.expert_counts[l][e] += part.expert_counts[l][e];
        }
        EXPECT_EQ(joined.loss.value(), whole.loss.value());
        EXPECT_EQ(joined.mtp_loss.value(), whole.mtp_loss.value());
        EXPECT_EQ(joined.balance.value(), whole.balance.value());
        EXPECT_EQ(joined.expert_counts, whole.expert_counts);
        expect_bit_equal(sum_nodes(std::move(nodes)), expected, model);
    }
}

// Gradients of grains apart are those of passes of one grain each.
TEST_P(ModelBits, GrainsApartAreThoseOfTheirOwnPasses) {
    const ModelSpec spec = tiny_spec({{"tie_word_embeddings", true}});
    const auto documents = random_documents({13, 9, 16}, spec.vocab_size, 6);
    Model model = tiny_model(spec, {.compute = GetParam(), .with_mtp = true});
    using Key = std::tuple<std::string, size_t, size_t>;
    std::map<Key, Tensor> apart;
    PassOptions options = kAllLosses;
    options.grains_apart = true;
    options.grad_done = [&](Parameter& parameter, size_t use, size_t node) {
        apart[{parameter.name, use, node}] = std::exchange(parameter.grads[use], {});
    };
    model.forward_backward(make_batch(documents), options);
    for (size_t grain = 0; grain < documents.size(); ++grain) {
        model.forward_backward(make_batch(std::span(documents).subspan(grain, 1)), kAllLosses);
        for (Parameter* parameter : model.parameters()) {
            if (!parameter->trained) continue;
            EXPECT_FALSE(parameter->layout.expert >= 0 && apart.contains({parameter->name, 0, 1}));
            if (parameter->layout.expert >= 0) continue;
            for (size_t use = 0; use < parameter->grads.size(); ++use)
                EXPECT_TRUE(
                    test::bit_equal(apart.at({parameter->name, use, grain}), parameter->grad(use)))
                    << parameter->name << " " << use << " " << grain;
        }
    }
}

TEST(WeightGradQueue, WhatWaitsOwnsItsOperands) {
    Parameter weight, frozen;
    weight.value = frozen.value = Tensor::empty({3, 5}, DType::f32);
    frozen.trained = false;
    std::vector<int> done;
    WeightGradQueue queue;
    queue.done = [&](Parameter&, size_t, size_t node) { done.push_back(static_cast<int>(node)); };
    std::vector<Tensor> sums[2];
    for (const bool waits : {false, true}) {
        queue.waits = waits;
        {
            const Tensor dy = test::random_tensor({9, 3}, DType::f32, 1);
            const Tensor x = test::random_tensor({9, 5}, DType::f32, 2);
            const std::vector<int64_t> grains{0, 4, 9};
            queue.add(matrix_grad(&weight, dy, x, make_nodes(grains, false, 1)));
            queue.add(matrix_grad(&frozen, dy, x, make_nodes(grains, true, 1)));
        }
        EXPECT_EQ(done.size(), 1u) << "what waits is not computed yet";
        queue.run();
        sums[waits].push_back(weight.grad().clone());
    }
    EXPECT_EQ(done, (std::vector<int>{0, 0}));
    EXPECT_TRUE(test::bit_equal(sums[0][0], sums[1][0]));
    EXPECT_FALSE(frozen.grads[0].defined());
}

// Documents packed into one sequence see nothing of each other. (The balance loss is a sequence's:
// it is off.)
TEST_P(ModelBits, PackedDocumentsEqualSeparateOnes) {
    const ModelSpec spec = tiny_spec();
    TokenBatch batch = make_batch(random_documents({13, 9, 1, 16}, spec.vocab_size, 8));
    batch.grain_offsets = {0, batch.tokens()};
    PassOptions pass = kAllLosses;
    pass.balance_scale = 0;
    Model model = tiny_model(spec, {.compute = GetParam(), .with_mtp = true});
    const PassResult separate = model.forward_backward(batch, pass);
    const std::vector<Tensor> expected = gradients(model);
    const Tensor logits = model.logits(batch);
    batch.sequence_offsets = {0, batch.tokens()};
    const PassResult packed = model.forward_backward(batch, pass);
    EXPECT_EQ(packed.loss.value(), separate.loss.value());
    EXPECT_EQ(packed.mtp_loss.value(), separate.mtp_loss.value());
    expect_bit_equal(gradients(model), expected, model);

    // And each document alone gives the same logits.
    for (size_t d = 0; d + 1 < batch.cu_seqlens.size(); ++d) {
        const int64_t begin = batch.cu_seqlens[d], end = batch.cu_seqlens[d + 1];
        const std::vector<std::vector<int32_t>> alone = {
            {batch.ids.begin() + begin, batch.ids.begin() + end}};
        EXPECT_TRUE(test::bit_equal(model.logits(make_batch(alone)), logits.slice(begin, end)));
    }
}

TEST_P(ModelBits, InstructionSetsAndThreadsChangeNothing) {
    const ModelSpec spec = tiny_spec();
    const TokenBatch batch = make_batch(random_documents({13, 9, 16}, spec.vocab_size, 5));
    std::vector<Tensor> expected;
    for (const std::string& level : test::isa_levels())
        for (const int threads : {1, 3}) {
            SCOPED_TRACE(level + " " + std::to_string(threads));
            set_runtime(threads, Numerics::exact);
            force_isa(level);
            Model model = tiny_model(spec, {.compute = GetParam(), .with_mtp = true});
            model.forward_backward(batch, kAllLosses);
            if (expected.empty()) expected = gradients(model);
            expect_bit_equal(gradients(model), expected, model);
        }
    set_runtime(1, Numerics::exact);
    force_isa("");
}

}  // namespace
}  // namespace fucina
