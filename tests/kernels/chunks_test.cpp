// Products over chunks of K (kernels/k_cut.h): what ranks make of their chunks, added along the
// tree, has the bits of the whole.
#include <gtest/gtest.h>

#include "kernels/gemm.h"
#include "tests/kernels/levels.h"
#include "tests/kernels/shares.h"
#include "tests/reference/reference.h"
#include "tests/support/expect_text.h"

namespace fucina {
namespace {

using test::bit_equal;
using test::columns_of;
using test::for_each_level;
using test::random_tensor;

using ChunkOrders = test::EveryOrder;
INSTANTIATE_TEST_SUITE_P(Each, ChunkOrders, test::offered_orders(), test::order_name);

struct Product {
    int64_t rows, n, k;
    KCut cut;
    bool dgrad;
};

Tensor product(const Product& p, const Tensor& x, const Tensor& w, int64_t chunks, DType out) {
    const Tensor y = Tensor::empty({p.rows, p.n}, out);
    const KCut cut{chunks, p.cut.parts};
    const PackedWeight packed =
        p.dgrad ? ops::pack(kHost, test::transposed(w), PackKind::dgrad, x.dtype(), {.cut = cut})
                : ops::pack(kHost, w, PackKind::forward, x.dtype(), {.cut = cut});
    ops::linear(kHost, x, packed, y);
    return y;
}

// w is [n, k]; dgrad gets its transpose, as the weight that it differentiates.
void expect_ranks_make_the_whole(const Product& p, DType type, std::string_view level) {
    const Tensor x = random_tensor({p.rows, p.k}, type, 1);
    const Tensor w = random_tensor({p.n, p.k}, DType::f32, 2);
    const Tensor whole = product(p, x, w, p.cut.chunks, type);
    const Tensor unrounded = product(p, x, w, p.cut.chunks, DType::f32);
    for (int64_t ranks = 2; ranks <= p.cut.chunks; ranks *= 2) {
        std::vector<Tensor> pieces;
        for (int64_t rank = 0; rank < ranks; ++rank)
            pieces.push_back(product(p, columns_of(x, {rank, ranks}, p.cut.parts),
                                     columns_of(w, {rank, ranks}, p.cut.parts),
                                     p.cut.chunks / ranks, DType::f32));
        EXPECT_TRUE(bit_equal(test::sum_of_ranks(pieces, type), whole) &&
                    bit_equal(pieces[0], unrounded))
            << level << " " << name_of(type) << " K " << p.k << " in " << p.cut.chunks
            << " chunks of " << p.cut.parts << " parts, " << p.rows << " rows, " << ranks
            << " ranks" << (p.dgrad ? ", dgrad" : "");
    }
}

TEST_P(ChunkOrders, RanksMakeTheWholeProduct) {
    for_each_level([&](std::string_view level) {
        for (const DType type : {DType::bf16, DType::f32})
            for (const KCut cut : {KCut{2, 1}, {4, 1}, {2, 2}, {4, 2}})
                for (const int64_t piece : {5, 32, 45})
                    for (const int64_t rows : {1, 3, 35})
                        for (const bool dgrad : {false, true})
                            expect_ranks_make_the_whole(
                                {rows, 40, piece * cut.chunks * cut.parts, cut, dgrad}, type,
                                level);
    });
}

// One chunk of one part, of whole blocks: no other order than before chunks were.
TEST_P(ChunkOrders, PartsOfWholeBlocksAreOneChain) {
    const Tensor x = random_tensor({9, 128}, DType::bf16, 1);
    const Tensor w = random_tensor({40, 128}, DType::f32, 2);
    const Product p{9, 40, 128, {1, 2}, false};
    const Product plain{9, 40, 128, {1, 1}, false};
    EXPECT_TRUE(bit_equal(product(p, x, w, 1, DType::f32), product(plain, x, w, 1, DType::f32)));
}

TEST(Chunks, CutsThatDoNotDivideAreRefusedWithBothNumbers) {
    const Tensor w = random_tensor({24, 36}, DType::f32, 1);
    for (const bool fast : {true, false}) {
        const auto refusal = [&](PackKind kind, KCut cut) {
            return test::message_of(ExitCode::internal, [&] {
                if (fast)
                    ops::pack(kHost, w, kind, DType::bf16, {.cut = cut});
                else
                    reference::pack(w, kind, DType::bf16, {.cut = cut});
            });
        };
        EXPECT_CONTAINS(refusal(PackKind::dgrad, {4, 4}), "6 columns of K in 4 chunks");
        EXPECT_CONTAINS(refusal(PackKind::forward, {4, 5}), "K of 36 in 5 parts");
        EXPECT_CONTAINS(refusal(PackKind::forward, {3, 1}), "3 chunks of columns of K; 1, 2 and 4");
    }
}

}  // namespace
}  // namespace fucina
