// The row and movement kernels beyond their KernelCases: strides, what they leave alone, values
// that no model should give, and refusals.
#include <gtest/gtest.h>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/optimizer.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/rows.h"
#include "tests/reference/reference.h"
#include "tests/simt/device.h"
#include "tests/simt/guarded.h"

namespace fucina {
namespace {

using test::Guarded;

TEST(CudaMovement, RowsApartAndNegativeIndices) {
    const Tensor index = tensor_of(kHost, std::vector<int32_t>{2, -1, 0});
    for (const int64_t width : {16, 6, 5})  // in units of 16, 4 and 1 bytes
        for (const DType type : {DType::bf16, DType::f32}) {
            const Tensor x = test::random_tensor({3, width}, type, 1);
            const Tensor apart = test::with_strided_rows(x);
            const Guarded gathered(3, width, type), scattered(3, width, type);
            const Tensor untouched = gathered.view().slice(1, 2).clone();
            cuda::gather_rows(kHost, apart, index, gathered);
            cuda::scatter_rows(kHost, apart, index, scattered);
            for (const auto& [to, from] : {std::pair<int64_t, int64_t>{0, 2}, {2, 0}}) {
                const Tensor want = x.slice(from, from + 1);
                EXPECT_TRUE(test::bit_equal(gathered.view().slice(to, to + 1), want));
                EXPECT_TRUE(test::bit_equal(scattered.view().slice(to, to + 1), want));
            }
            EXPECT_TRUE(test::bit_equal(gathered.view().slice(1, 2), untouched));
            EXPECT_TRUE(test::bit_equal(scattered.view().slice(1, 2), untouched));
            EXPECT_TRUE(gathered.intact() && scattered.intact());
        }
}

TEST(CudaMovement, CombineAndAddWithRowsApart) {
    const Tensor choice_slot = tensor_of(kHost, std::vector<int32_t>{1, -1, 0, 2});
    for (const int64_t width : {32, 7})
        for (const DType type : {DType::bf16, DType::f32}) {
            const auto random = [&](int64_t rows, uint64_t seed) {
                return test::with_strided_rows(test::random_tensor({rows, width}, type, seed));
            };
            const ops::Combine io{.slots = random(3, 1),
                                  .add1 = random(2, 2),
                                  .out = Tensor::empty({2, width}, type)};
            const Guarded apart(2, width, type), sum(2, width, type);
            ops::Combine strided = io;
            strided.out = apart;
            const TokenMap map{.slot_token = Tensor::empty({3}, DType::i32),
                               .choice_slot = choice_slot};
            cuda::combine(kHost, strided, map);
            ops::combine(kHost, io, map);
            EXPECT_TRUE(test::bit_equal(apart, io.out));
            cuda::add(kHost, io.add1, io.slots.slice(0, 2), sum);
            ops::add(kHost, io.add1, io.slots.slice(0, 2), io.out);
            EXPECT_TRUE(test::bit_equal(sum, io.out));
            EXPECT_TRUE(apart.intact() && sum.intact());
        }
}

// As the CPU's: different experts, ascending, whatever the logits.
TEST(CudaRouter, ChoosesAsTheCpuWhateverTheLogits) {
    const RouterConfig config{.experts = 12, .top_k = 5, .groups = 3, .topk_groups = 2};
    const Tensor logits = test::non_finite_logits(40, 12), scores = logits.clone();
    const Tensor want = Tensor::zeros({40, 5}, DType::i32);
    const Tensor weights = Tensor::empty({40, 5}, DType::f32);
    const Tensor whole = Tensor::zeros({41, 5}, DType::i32), indices = whole.slice(0, 40);
    ops::router(kHost, config, logits, {}, scores, want, weights);
    cuda::router(kHost, config, logits, {}, scores, indices, weights);
    EXPECT_TRUE(test::bit_equal(indices, want));
    for (int64_t j = 0; j < 5; ++j) ASSERT_EQ(whole.row<int32_t>(40)[j], 0);
}

// More tokens than the sort has threads, ids of two and more digits, ids of other ranks, trees with
// few and many leaves, and rows apart.
TEST(CudaEmbedding, BackwardOfManyTokensAlongAnyTree) {
    for (const auto& [vocabulary, leaves] :
         {std::pair<int64_t, int64_t>{3, 1}, {15, 2}, {16, 3}, {300, 7}, {300, 12}}) {
        constexpr int64_t kTokens = 2100, kWidth = 3;
        test::Random random(static_cast<uint64_t>(leaves));
        std::vector<int32_t> ids;
        for (int64_t t = 0; t < kTokens; ++t)
            ids.push_back(static_cast<int32_t>(random.below(vocabulary + 2)) - 1);
        std::vector<int64_t> offsets;
        for (int64_t leaf = 0; leaf <= leaves; ++leaf)
            offsets.push_back(kTokens * leaf * leaf / (leaves * leaves));
        const Tensor d_out = test::random_tensor({kTokens, kWidth}, DType::f32, 1);
        const Tensor want = Tensor::empty({vocabulary, kWidth}, DType::f32);
        const Guarded d_table(vocabulary, kWidth, DType::f32);
        reference::embedding_backward(tensor_of(kHost, ids), d_out, make_leaf_tree(offsets), want);
        cuda::embedding_backward(kHost, tensor_of(kHost, ids), test::with_strided_rows(d_out),
                                 make_leaf_tree(offsets), d_table);
        EXPECT_TRUE(test::bit_equal(d_table, want)) << vocabulary << " ids " << leaves;
        EXPECT_TRUE(d_table.intact());
    }
}

TEST(CudaRows, AddLookUpAndCastWithRowsApart) {
    for (const int64_t width : {32, 7})
        for (const DType type : {DType::bf16, DType::f32}) {
            const Tensor x = test::random_tensor({3, width}, type, 1);
            const Tensor table = test::random_tensor({3, width}, DType::f32, 2);
            const Tensor want = table.clone(), rounded = Tensor::empty({3, width}, type);
            const Guarded y(3, width, DType::f32), looked_up(3, width, type), back(3, width, type);
            cuda::cast(kHost, table, y);
            cuda::add_in_place(kHost, y, test::with_strided_rows(x));
            ops::add_in_place(kHost, want, x);
            EXPECT_TRUE(test::bit_equal(y, want));
            const Tensor ids = tensor_of(kHost, std::vector<int32_t>{2, 0, 1});
            cuda::embedding(kHost, ids, test::with_strided_rows(table), looked_up);
            ops::embedding(kHost, ids, table, rounded);
            EXPECT_TRUE(test::bit_equal(looked_up, rounded));
            cuda::cast(kHost, y, back);
            ops::cast(kHost, want, rounded);
            EXPECT_TRUE(test::bit_equal(back, rounded));
            EXPECT_TRUE(y.intact() && looked_up.intact() && back.intact());
        }
}

TEST(CudaRows, RefuseShapesThatDoNotFit) {
    const Tensor x = Tensor::zeros({2, 8}, DType::bf16), floats = Tensor::zeros({2, 8}, DType::f32);
    const Tensor index = Tensor::zeros({2}, DType::i32), three = Tensor::zeros({3}, DType::i32);
    EXPECT_THROW(ops::gather_rows(test::device(), x, index, floats), Error);
    EXPECT_THROW(ops::scatter_rows(test::device(), x, three, x), Error);
    EXPECT_THROW(ops::combine(test::device(), {.slots = x, .out = floats}, {.slot_token = three}),
                 Error);
    EXPECT_THROW(ops::add(test::device(), x, x.slice(0, 1), x), Error);
    EXPECT_THROW(
        ops::count_choices(test::device(), Tensor::zeros({2, 2}, DType::i32),
                           Tensor::zeros({2}, DType::i64), Tensor::zeros({2, 4}, DType::i64)),
        Error);
    EXPECT_THROW(
        ops::router(test::device(), {.experts = 8, .top_k = 2}, floats, {}, floats, index, floats),
        Error);
    EXPECT_THROW(ops::cast(test::device(), x, three), Error);
    EXPECT_THROW(ops::add_in_place(test::device(), x, x), Error);
    EXPECT_THROW(ops::embedding(test::device(), three, floats, floats), Error);
    EXPECT_THROW(ops::adamw(test::device(), {}, floats, floats, x, three), Error);
    EXPECT_THROW(ops::sum_of_squares(test::device(), floats, 3), Error);
    EXPECT_THROW(ops::embedding_backward(test::device(), index, x, make_leaf_tree({0, 1}), floats),
                 Error);
}

}  // namespace
}  // namespace fucina
