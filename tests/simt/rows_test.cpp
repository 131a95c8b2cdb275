// The row and movement kernels beyond their KernelCases: strides, what they leave alone, values
// that no model should give, and refusals.
#include <gtest/gtest.h>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/optimizer.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/rows.h"
#include "kernels/reference/reference.h"
#include "tests/simt/guarded.h"
#include "tests/support/moe_cases.h"

namespace fucina {
namespace {

using test::Guarded;

TEST(CudaMovement, RowsApartAndNegativeIndices) {
    const Tensor index = tensor_of(std::vector<int32_t>{2, -1, 0});
    for (const int64_t width : {16, 6, 5})  // in units of 16, 4 and 1 bytes
        for (const DType type : {DType::bf16, DType::f32}) {
            const Tensor x = test::random_tensor({3, width}, type, 1);
            const Tensor apart = test::with_strided_rows(x);
            const Guarded gathered(3, width, type), scattered(3, width, type);
            const Tensor untouched = gathered.view().slice(1, 2).clone();
            cuda::gather_rows(apart, index, gathered, nullptr);
            cuda::scatter_rows(apart, index, scattered, nullptr);
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
    const Tensor choice_slot = tensor_of(std::vector<int32_t>{1, -1, 0, 2});
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
            cuda::combine(strided, choice_slot, nullptr);
            ops::combine(
                io, {.slot_token = Tensor::empty({3}, DType::i32), .choice_slot = choice_slot});
            EXPECT_TRUE(test::bit_equal(apart, io.out));
            cuda::add(io.add1, io.slots.slice(0, 2), sum, nullptr);
            ops::add(io.add1, io.slots.slice(0, 2), io.out);
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
    ops::router(config, logits, {}, scores, want, weights);
    cuda::router({config, logits, {}, scores, indices, weights}, nullptr);
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
        reference::embedding_backward(tensor_of(ids), d_out, make_leaf_tree(offsets), want);
        cuda::embedding_backward({.ids = tensor_of(ids),
                                  .d_out = test::with_strided_rows(d_out),
                                  .leaf_offsets = tensor_of(offsets),
                                  .scratch = Tensor::empty({4, kTokens}, DType::i32),
                                  .d_table = d_table},
                                 nullptr);
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
            cuda::cast(table, y, nullptr);
            cuda::add_in_place(y, test::with_strided_rows(x), nullptr);
            ops::add_in_place(want, x);
            EXPECT_TRUE(test::bit_equal(y, want));
            const Tensor ids = tensor_of(std::vector<int32_t>{2, 0, 1});
            cuda::embedding(ids, test::with_strided_rows(table), looked_up, nullptr);
            ops::embedding(ids, table, rounded);
            EXPECT_TRUE(test::bit_equal(looked_up, rounded));
            cuda::cast(y, back, nullptr);
            ops::cast(want, rounded);
            EXPECT_TRUE(test::bit_equal(back, rounded));
            EXPECT_TRUE(y.intact() && looked_up.intact() && back.intact());
        }
}

TEST(CudaRows, RefuseShapesThatDoNotFit) {
    const Tensor x = Tensor::zeros({2, 8}, DType::bf16), floats = Tensor::zeros({2, 8}, DType::f32);
    const Tensor index = Tensor::zeros({2}, DType::i32), three = Tensor::zeros({3}, DType::i32);
    EXPECT_THROW(cuda::gather_rows(x, index, floats, nullptr), Error);
    EXPECT_THROW(cuda::scatter_rows(x, three, x, nullptr), Error);
    EXPECT_THROW(cuda::combine({.slots = x, .out = floats}, three, nullptr), Error);
    EXPECT_THROW(cuda::add(x, x.slice(0, 1), x, nullptr), Error);
    EXPECT_THROW(
        cuda::count_choices(Tensor::zeros({2, 2}, DType::i32), Tensor::zeros({2}, DType::i64),
                            Tensor::zeros({2, 4}, DType::i64), nullptr),
        Error);
    EXPECT_THROW(cuda::router({{.experts = 8, .top_k = 2}, floats, {}, floats, index, floats}, {}),
                 Error);
    EXPECT_THROW(cuda::cast(x, three, nullptr), Error);
    EXPECT_THROW(cuda::add_in_place(x, x, nullptr), Error);
    EXPECT_THROW(cuda::embedding(three, floats, floats, nullptr), Error);
    EXPECT_THROW(cuda::adamw({}, floats, floats, x, three, nullptr), Error);
    EXPECT_THROW(cuda::sum_of_squares(floats, 3, floats, nullptr), Error);
    EXPECT_THROW(cuda::sum_of_squares(floats, 1, Tensor::zeros({1}, DType::f64), nullptr), Error);
    EXPECT_THROW(cuda::rope(floats, 3, index, {}, false, nullptr), Error);
    EXPECT_THROW(cuda::embedding_backward({.ids = index,
                                           .d_out = x,
                                           .leaf_offsets = Tensor::zeros({2}, DType::i64),
                                           .scratch = index,
                                           .d_table = floats},
                                          nullptr),
                 Error);
}

}  // namespace
}  // namespace fucina
