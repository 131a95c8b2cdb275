// What model/pass_memory.h predicts, against what the arena measured.
#include "model/pass_memory.h"

#include <gtest/gtest.h>

#include <map>

#include "kernels/arena.h"
#include "kernels/runtime.h"
#include "tests/support/tiny_model.h"

namespace fucina {
namespace {

using test::random_documents;
using test::tiny_model;
using test::tiny_spec;

int64_t peak_of(const std::string& purpose) {
    for (const MemoryUse& use : Arena::process().table())
        if (use.purpose == purpose) return use.peak;
    return 0;
}

void expect_close(int64_t predicted, int64_t measured, const std::string& what) {
    EXPECT_NEAR(static_cast<double>(predicted), static_cast<double>(measured),
                0.03 * static_cast<double>(measured))
        << what;
}

// What is done with gradients, as trainer/grad_accumulator.cpp does it, but that nothing is added:
// merges take their gradient away, and earlier passes' whole sets (held) are not there.
class Sums {
  public:
    Sums(Model& model, const PassShape& shape) : model_(model), shape_(shape) {}

    // Those of replicas that have some before the pass.
    void begin() {
        sums_.clear();
        MemoryPurpose purpose("gradients");
        for (Parameter* parameter : model_.parameters()) {
            if (!parameter->trained || !apart(*parameter)) continue;
            for (size_t use = 0; use < parameter->grads.size(); ++use)
                for (int replica = 0; replica < shape_.replicas; ++replica)
                    sums_[{parameter, use}].push_back(
                        Tensor::empty(parameter->box.extent, DType::f32));
        }
    }
    void take(Parameter& parameter, size_t use, size_t node) {
        Tensor grad = std::exchange(parameter.grads[use], {});
        std::vector<Tensor>& sums = sums_[{&parameter, use}];
        if (shape_.integers) {
            MemoryPurpose purpose("gradients");
            if (shape_.held == 0 && node == 0)
                sums.push_back(Tensor::empty(grad.shape(), DType::i64));
            return;
        }
        if (apart(parameter) ? static_cast<int>(node) < shape_.new_replicas : shape_.merges == 0)
            sums.push_back(std::move(grad));
        const bool whole = static_cast<int64_t>(node) + 1 == shape_.leaves;
        if (shape_.last && apart(parameter) && whole) sums.resize(1);
    }
    void end() {
        sums_.clear();
        for (Parameter* parameter : model_.parameters())
            for (Tensor& grad : parameter->grads) grad = {};
    }

  private:
    bool apart(const Parameter& parameter) const {
        return shape_.apart && !shape_.integers && parameter.layout.expert < 0;
    }

    Model& model_;
    const PassShape& shape_;
    std::map<std::pair<const Parameter*, size_t>, std::vector<Tensor>> sums_;
};

void check_pass(const ModelSpec& spec, PassShape shape, const std::vector<int64_t>& lengths,
                int64_t grains_of = 1) {
    set_runtime(1, Numerics::exact);
    TokenBatch batch = make_batch(random_documents(lengths, spec.vocab_size, 4));
    std::vector<int64_t> grains;
    for (size_t i = 0; i < batch.grain_offsets.size(); i += static_cast<size_t>(grains_of))
        grains.push_back(batch.grain_offsets[i]);
    batch.grain_offsets = grains;
    shape.tokens = batch.tokens();
    shape.leaves = static_cast<int64_t>(grains.size()) - 1;
    Model model = tiny_model(
        spec, {.compute = shape.compute, .recompute = shape.recompute, .with_mtp = shape.with_mtp});
    PassOptions options{.loss_scale = 1};
    options.mtp_scale = shape.with_mtp ? 1 : 0;
    options.balance_scale = shape.balance ? 1 : 0;
    options.grains_apart = shape.apart;
    if (shape.integers) options.expert_sums = ExpertSums::by_grain;
    Sums sums(model, shape);
    if (shape.merges > 0 || shape.apart)
        options.grad_done = [&](Parameter& parameter, size_t use, size_t node) {
            sums.take(parameter, use, node);
        };
    model.forward_backward(batch, options);  // makes the kernels' scratch
    sums.end();
    const int64_t before = Arena::process().total().current;
    sums.begin();
    Arena::process().forget_peaks();
    model.forward_backward(batch, options);
    const PassMemory predicted = pass_memory(spec, shape);
    expect_close(predicted.activations, peak_of("activations"), "activations");
    expect_close(predicted.gradients, peak_of("gradients"), "gradients");
    expect_close(predicted.together, Arena::process().total().peak - before, "together");
    int64_t all = 0;
    for (const Parameter* parameter : model.parameters())
        if (parameter->trained)
            all += 4 * parameter->value.size() * static_cast<int64_t>(parameter->grads.size());
    EXPECT_EQ(predicted.all_gradients, all);
}

// Wide enough that rounding to 64 bytes is nothing.
ModelSpec wide_spec(const nlohmann::json& changes = nlohmann::json::object()) {
    nlohmann::json wide = {
        {"hidden_size", 192},     {"intermediate_size", 512}, {"moe_intermediate_size", 96},
        {"q_lora_rank", 64},      {"kv_lora_rank", 48},       {"qk_rope_head_dim", 32},
        {"qk_nope_head_dim", 32}, {"v_head_dim", 64},         {"vocab_size", 300}};
    wide.update(changes);
    return tiny_spec(wide);
}

class PassMemoryOf : public testing::TestWithParam<RecomputeKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, PassMemoryOf,
                         testing::Values(RecomputeKind::none, RecomputeKind::norm,
                                         RecomputeKind::mla_up, RecomputeKind::block));

TEST_P(PassMemoryOf, AModelOfEveryLayer) {
    for (const DType compute : {DType::bf16, DType::f32})
        for (const bool more : {false, true})
            check_pass(
                wide_spec(),
                {.compute = compute, .recompute = GetParam(), .with_mtp = more, .balance = more},
                {256, 256, 128, 64});
}

TEST_P(PassMemoryOf, ManyExpertsOrOne) {
    check_pass(wide_spec({{"n_routed_experts", 24}, {"num_experts_per_tok", 6}}),
               {.recompute = GetParam(), .balance = true}, {512});
    check_pass(wide_spec({{"n_routed_experts", 1},
                          {"num_experts_per_tok", 1},
                          {"n_group", 1},
                          {"topk_group", 1},
                          {"n_shared_experts", 0}}),
               {.recompute = GetParam()}, {512});
}

TEST_P(PassMemoryOf, SumsOfIntegers) {
    check_pass(wide_spec(),
               {.recompute = GetParam(), .with_mtp = true, .apart = true, .integers = true},
               {256, 256, 128, 64});
}

TEST_P(PassMemoryOf, DenseLayersAndNoQueryLatent) {
    check_pass(wide_spec({{"first_k_dense_replace", 3}, {"q_lora_rank", nullptr}}),
               {.recompute = GetParam()}, {300, 212});
}

TEST_P(PassMemoryOf, ALargeVocabularyTiedOrNot) {
    for (const bool tied : {false, true})
        check_pass(wide_spec({{"vocab_size", 20000}, {"tie_word_embeddings", tied}}),
                   {.recompute = GetParam(), .with_mtp = tied}, {100, 100, 100, 100, 100, 100});
}

TEST_P(PassMemoryOf, APassThatAddsToAnEarlierOne) {
    check_pass(wide_spec({{"vocab_size", 5000}}),
               {.recompute = GetParam(), .with_mtp = true, .merges = 1}, {128, 128, 128, 128}, 2);
    check_pass(wide_spec(),
               {.recompute = GetParam(), .with_mtp = true, .apart = true, .new_replicas = 1},
               {128, 128, 128, 128}, 2);
}

TEST_P(PassMemoryOf, TheLastPassAddsUpReplicas) {
    const std::vector<int64_t> lengths{128, 128, 128, 128};
    PassShape shape{.recompute = GetParam(), .with_mtp = true, .merges = 1, .apart = true};
    shape.last = true;
    shape.replicas = 4;
    check_pass(wide_spec(), shape, lengths);
    shape.replicas = 2;
    shape.new_replicas = 2;
    check_pass(wide_spec(), shape, lengths);
    // The fewer there are, the more the end of the pass decides.
    shape.replicas = 0;
    check_pass(wide_spec({{"vocab_size", 5000}}), shape, {128, 128, 128, 128}, 2);
}

}  // namespace
}  // namespace fucina
