// Which kernels a pass calls, and what it has them write: the linker puts these counters before
// them (--wrap in tests/CMakeLists.txt).
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>

#include "kernels/attention.h"
#include "kernels/moe.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "tests/support/tiny_model.h"

namespace fucina {
namespace {

using Counts = std::map<std::string, int64_t>;

Counts& counts() {
    static Counts all;
    return all;
}

// Counts a call, and whether it writes something that only backward reads.
void count(const std::string& name, bool for_backward = false) {
    ++counts()[name];
    counts()["writes for backward"] += for_backward;
}

}  // namespace
}  // namespace fucina

using fucina::AttentionKv;
using fucina::AttentionShape;
using fucina::Exec;
using fucina::PackedWeight;
using fucina::RopeTable;
using fucina::RouterConfig;
using fucina::RowGroups;
using fucina::Tensor;
using fucina::TokenMap;
using fucina::ops::Combine;

#define FUCINA_COUNTED(symbol, parameters, arguments, name, ...) \
    extern "C" void __real_##symbol parameters;                  \
    extern "C" void __wrap_##symbol parameters;                  \
    extern "C" void __wrap_##symbol parameters {                 \
        fucina::count(name __VA_OPT__(, ) __VA_ARGS__);          \
        __real_##symbol arguments;                               \
    }

FUCINA_COUNTED(_ZN6fucina3ops6linearERKNS_4ExecERKNS_6TensorERKNS_12PackedWeightES6_,
               (const Exec& exec, const Tensor& x, const PackedWeight& w, const Tensor& y),
               (exec, x, w, y), "linear")
FUCINA_COUNTED(_ZN6fucina3ops7rmsnormERKNS_4ExecERKNS_6TensorES6_fS6_S6_,
               (const Exec& exec, const Tensor& x, const Tensor& w, float eps, const Tensor& y,
                const Tensor& rstd),
               (exec, x, w, eps, y, rstd), "rmsnorm", rstd.defined())
FUCINA_COUNTED(_ZN6fucina3ops11add_rmsnormERKNS_4ExecERKNS_6TensorES6_S6_S6_fS6_S6_,
               (const Exec& exec, const Tensor& x, const Tensor& residual, const Tensor& sum,
                const Tensor& w, float eps, const Tensor& y, const Tensor& rstd),
               (exec, x, residual, sum, w, eps, y, rstd), "add_rmsnorm", rstd.defined())
FUCINA_COUNTED(_ZN6fucina3ops4ropeERKNS_4ExecERKNS_6TensorElS6_RKNS_9RopeTableEb,
               (const Exec& exec, const Tensor& x, int64_t heads, const Tensor& positions,
                const RopeTable& table, bool inverse),
               (exec, x, heads, positions, table, inverse), inverse ? "inverse rope" : "rope")
FUCINA_COUNTED(
    _ZN6fucina3ops9attentionERKNS_4ExecERKNS_14AttentionShapeERKNS_6TensorERKNS_11AttentionKvES9_S9_,
    (const Exec& exec, const AttentionShape& shape, const Tensor& q, const AttentionKv& kv,
     const Tensor& out, const Tensor& lse),
    (exec, shape, q, kv, out, lse), "attention", lse.defined())
FUCINA_COUNTED(
    _ZN6fucina3ops14gate_up_swigluERKNS_4ExecERKNS_6TensorERKNS_9RowGroupsERKNS_12PackedWeightES6_S6_,
    (const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
     const Tensor& gate_up, const Tensor& h),
    (exec, x, rows, w, gate_up, h), "gate_up_swiglu", gate_up.defined())
FUCINA_COUNTED(
    _ZN6fucina3ops14grouped_linearERKNS_4ExecERKNS_6TensorERKNS_9RowGroupsERKNS_12PackedWeightES6_,
    (const Exec& exec, const Tensor& x, const RowGroups& rows, const PackedWeight& w,
     const Tensor& y),
    (exec, x, rows, w, y), "grouped_linear")
FUCINA_COUNTED(_ZN6fucina3ops6routerERKNS_4ExecERKNS_12RouterConfigERKNS_6TensorES9_S9_S9_S9_,
               (const Exec& exec, const RouterConfig& config, const Tensor& logits,
                const Tensor& bias, const Tensor& scores, const Tensor& indices,
                const Tensor& weights),
               (exec, config, logits, bias, scores, indices, weights), "router")
FUCINA_COUNTED(_ZN6fucina3ops7combineERKNS_4ExecERKNS0_7CombineERKNS_8TokenMapE,
               (const Exec& exec, const Combine& io, const TokenMap& map), (exec, io, map),
               "combine")

namespace fucina {
namespace {

using test::random_documents;
using test::tiny_model;
using test::tiny_spec;

constexpr int kKernels = 9;

Counts counts_of(const std::function<void()>& work) {
    counts().clear();
    work();
    return counts();
}

Counts counts_of_pass(const ModelSpec& spec, RecomputeKind kind) {
    const TokenBatch batch = make_batch(random_documents({13, 9}, spec.vocab_size, 5));
    Model model = tiny_model(spec, {.compute = DType::bf16, .recompute = kind});
    return counts_of([&] { model.forward_backward(batch, {.loss_scale = 1}); });
}

Counts counts_of_evaluation(const ModelSpec& spec) {
    const TokenBatch batch = make_batch(random_documents({13, 9}, spec.vocab_size, 5));
    Model model = tiny_model(spec, {.compute = DType::bf16});
    return counts_of([&] { model.evaluate(batch); });
}

std::vector<ModelSpec> specs() {
    return {tiny_spec(), tiny_spec({{"q_lora_rank", nullptr}})};
}

// Evaluation is one forward of the blocks, the final norm, and the head's product.
TEST(OpCount, RecomputeOfABlockIsOneMoreForward) {
    for (const ModelSpec& spec : specs()) {
        Counts expected = counts_of_pass(spec, RecomputeKind::none);
        const Counts forward = counts_of_evaluation(spec);
        for (const auto& [name, times] : forward) expected[name] += times;
        --expected["rmsnorm"];
        --expected["linear"];
        Counts found = counts_of_pass(spec, RecomputeKind::block);
        EXPECT_EQ(forward.at("attention"), spec.layers);
        found.erase("writes for backward");
        expected.erase("writes for backward");
        EXPECT_EQ(found, expected);
        EXPECT_GE(static_cast<int>(found.size()), kKernels);
    }
}

TEST(OpCount, RecomputeOfNormsRunsNoProduct) {
    for (const ModelSpec& spec : specs()) {
        Counts expected = counts_of_pass(spec, RecomputeKind::none);
        const int64_t latents = spec.attention.q_lora_rank > 0 ? 2 : 1;
        expected["rmsnorm"] += (2 + latents) * spec.layers;
        Counts found = counts_of_pass(spec, RecomputeKind::norm);
        found.erase("writes for backward");
        expected.erase("writes for backward");
        EXPECT_EQ(found, expected);
    }
}

// What backward needs is written once, whatever is computed again; evaluation writes none of it.
TEST(OpCount, OnlyAForwardBeforeBackwardWritesForIt) {
    for (const ModelSpec& spec : specs()) {
        EXPECT_EQ(counts_of_evaluation(spec).at("writes for backward"), 0);
        const int64_t written = counts_of_pass(spec, RecomputeKind::none)["writes for backward"];
        EXPECT_GT(written, 4 * spec.layers);
        EXPECT_EQ(counts_of_pass(spec, RecomputeKind::block)["writes for backward"], written);
    }
}

TEST(OpCount, APromptWritesNothingForBackward) {
    const ModelSpec spec = tiny_spec();
    Model model = tiny_model(spec, {.compute = DType::bf16, .training = false});
    const auto documents = random_documents({9}, spec.vocab_size, 5);
    LatentCache cache = model.make_cache(10);
    const Counts found = counts_of([&] { model.extend(documents[0], cache); });
    EXPECT_EQ(found.at("attention"), spec.layers);
    EXPECT_EQ(found.at("writes for backward"), 0);
}

}  // namespace
}  // namespace fucina
