// The row and movement kernels through the shared KernelCases, under the executor's schedules.
#include <gtest/gtest.h>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/optimizer.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/rows.h"
#include "tests/simt/every_order.h"
#include "tests/support/moe_cases.h"
#include "tests/support/optimizer_cases.h"
#include "tests/support/rope_cases.h"

namespace fucina::test {
namespace {

void check(const Cases& cases) {
    std::vector<Setting> settings;
    for (const simt::Options& order : simt::every_order())
        settings.push_back(
            {simt::name_of(order), [order] { simt::options = order; }, [] { simt::options = {}; }});
    for (const KernelCase& test : cases.kernels) check_parity(test, settings);
    for (const GradientCase& test : cases.gradients) check_gradient(test);
}

// Slots beyond the last are -1; then it is what the host's op makes.
TokenMap make_token_map(const Tensor& indices, int64_t experts, const Tensor& grain_offsets,
                        const Tensor& room) {
    const int64_t grains = grain_offsets.rows() - 1;
    const auto choices = [&] { return Tensor::empty({indices.size()}, DType::i32); };
    TokenMap map{.expert_offsets = Tensor::empty({experts + 1}, DType::i64),
                 .leaves = Tensor::empty({experts, grains + 1}, DType::i64),
                 .slot_token = choices(),
                 .slot_choice = choices(),
                 .choice_slot = choices(),
                 .dropped = room.defined() ? Tensor::empty({experts}, DType::i64) : Tensor()};
    cuda::make_token_map({.indices = indices,
                          .grain_offsets = grain_offsets,
                          .room = room,
                          .counts = Tensor::empty({grains, experts}, DType::i64),
                          .map = map},
                         nullptr);
    const int64_t slots = map.expert_offsets.data<int64_t>()[experts];
    for (Tensor* list : {&map.slot_token, &map.slot_choice}) {
        for (int64_t i = slots; i < indices.size(); ++i) EXPECT_EQ(list->data<int32_t>()[i], -1);
        *list = list->slice(0, slots);
    }
    return map;
}

TEST(CudaKernelCases, Movement) {
    Cases cases;
    add_movement_cases(
        cases,
        {.make_token_map = make_token_map,
         .count_choices = [](const Tensor& indices, const Tensor& offsets,
                             const Tensor& out) { cuda::count_choices(indices, offsets, out, {}); },
         .update_router_bias =
             [](const std::vector<int64_t>& loads, float rate, const Tensor& bias) {
                 cuda::update_router_bias(tensor_of(loads), rate, bias, {});
             },
         .combine = [](const ops::Combine& io,
                       const TokenMap& map) { cuda::combine(io, map.choice_slot, {}); },
         .gather_rows = [](const Tensor& x, const Tensor& index,
                           const Tensor& out) { cuda::gather_rows(x, index, out, {}); },
         .scatter_rows = [](const Tensor& x, const Tensor& index,
                            const Tensor& out) { cuda::scatter_rows(x, index, out, {}); }});
    check(cases);
}

TEST(CudaKernelCases, Router) {
    Cases cases;
    add_router_cases(
        cases, {.router =
                    [](const RouterConfig& config, const Tensor& logits, const Tensor& bias,
                       const Tensor& scores, const Tensor& indices, const Tensor& weights) {
                        cuda::router({config, logits, bias, scores, indices, weights}, nullptr);
                    },
                .router_backward =
                    [](const RouterConfig& config, const Tensor& scores, const Tensor& indices,
                       const Tensor&, const Tensor& d_weights, const Tensor& d_scores,
                       const Tensor& d_logits) {
                        cuda::router_backward(
                            {config, scores, indices, d_weights, d_scores, d_logits}, nullptr);
                    }});
    check(cases);
}

TEST(CudaKernelCases, Rope) {
    Cases cases;
    add_rope_cases(
        cases, [](const Tensor& x, int64_t heads, const Tensor& positions, const RopeTable& table,
                  bool inverse) { cuda::rope(x, heads, positions, table, inverse, nullptr); });
    check(cases);
}

ExactSum sum_of_squares(const Tensor& x, int64_t chunks) {
    const Tensor sums = Tensor::empty({cuda::square_blocks(x, chunks)}, DType::f64);
    cuda::sum_of_squares(x, chunks, sums, nullptr);
    ExactSum total;
    for (int64_t i = 0; i < sums.size(); ++i) total.add(sums.data<double>()[i]);
    return total;
}

TEST(CudaKernelCases, Optimizer) {
    Cases cases;
    add_optimizer_cases(
        cases, {.adamw = [](const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m,
                            const Tensor& v) { cuda::adamw(step, w, grad, m, v, nullptr); },
                .sum_of_squares = sum_of_squares,
                .add_in_place = [](const Tensor& y,
                                   const Tensor& x) { cuda::add_in_place(y, x, nullptr); },
                .cast = [](const Tensor& x, const Tensor& out) { cuda::cast(x, out, nullptr); }});
    check(cases);
}

TEST(CudaKernelCases, Embedding) {
    Cases cases;
    add_embedding_cases(
        cases, {.embedding = [](const Tensor& ids, const Tensor& table,
                                const Tensor& out) { cuda::embedding(ids, table, out, nullptr); },
                .embedding_backward =
                    [](const Tensor& ids, const Tensor& d_out, const LeafTree& tree,
                       const Tensor& d_table) {
                        cuda::embedding_backward(
                            {.ids = ids,
                             .d_out = d_out,
                             .leaf_offsets = tensor_of(tree.offsets),
                             .scratch = Tensor::empty({4, ids.size()}, DType::i32),
                             .d_table = d_table},
                            nullptr);
                    }});
    check(cases);
}

}  // namespace
}  // namespace fucina::test
