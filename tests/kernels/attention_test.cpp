// Attention and its backward against the reference, on every instruction set, which must agree bit
// for bit.
#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/runtime.h"
#include "tests/kernels/levels.h"
#include "tests/kernels/shares.h"
#include "tests/reference/reference.h"
#include "tests/support/expect_text.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

using test::bit_equal;
using test::for_each_level;
using test::get;
using test::random_tensor;

struct Layout {
    int64_t heads, kv_heads, own, shared, v;
    std::vector<int64_t> documents;
};

// k_own and v are columns of one matrix, as MLA's up-projection makes them.
struct Case {
    std::vector<int64_t> documents;
    AttentionShape shape;
    Tensor q, kv_matrix, k_shared, d_out, out, lse, dq, dkv_matrix, dk_shared;

    Case(const Layout& layout, DType type) : documents(layout.documents) {
        const int64_t rows = documents.back(), stride = layout.own + layout.v;
        shape = {.heads = layout.heads,
                 .kv_heads = layout.kv_heads,
                 .d_qk = layout.own + layout.shared,
                 .d_shared = layout.shared,
                 .d_v = layout.v,
                 .scale = 1.0f / std::sqrt(static_cast<float>(layout.own + layout.shared)),
                 .cu_seqlens = tensor_of(kHost, documents)};
        q = random_tensor({rows, layout.heads * shape.d_qk}, type, 1);
        kv_matrix = random_tensor({rows, layout.kv_heads * stride}, type, 2);
        if (layout.shared > 0) k_shared = random_tensor({rows, layout.shared}, type, 3);
        d_out = random_tensor({rows, layout.heads * layout.v}, type, 4);
        out = Tensor::empty({rows, layout.heads * layout.v}, type);
        lse = Tensor::empty({layout.heads, rows}, DType::f32);
        dq = Tensor::empty({rows, layout.heads * shape.d_qk}, type);
        dkv_matrix = Tensor::empty({rows, layout.kv_heads * stride}, type);
        if (layout.shared > 0) dk_shared = Tensor::empty({rows, layout.shared}, type);
    }
    AttentionKv kv(const Tensor& matrix, const Tensor& shared) const {
        const int64_t own = shape.d_qk - shape.d_shared, stride = own + shape.d_v;
        return {.k_own = matrix,
                .k_shared = shared,
                .v = matrix.columns(own, matrix.row_size()),
                .k_head_stride = stride,
                .v_head_stride = stride};
    }
    ops::AttentionBackward backward() const {
        return {.d_out = d_out,
                .out = out,
                .lse = lse,
                .q = q,
                .kv = kv(kv_matrix, k_shared),
                .dq = dq,
                .dkv = kv(dkv_matrix, dk_shared)};
    }
    std::vector<Tensor> results() const {
        std::vector<Tensor> all = {out, lse, dq, dkv_matrix};
        if (dk_shared.defined()) all.push_back(dk_shared);
        return all;
    }
};

// Root mean squares. At least 0.1 for b's: a query that sees one key has a gradient of zero, which
// comes out as a rounding error of the terms that cancel.
double relative_error(const Tensor& a, const Tensor& b) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < a.rows(); ++i)
        for (int64_t j = 0; j < a.row_size(); ++j) {
            const double difference = double{get(a, i, j)} - get(b, i, j);
            error += difference * difference;
            norm += double{get(b, i, j)} * get(b, i, j);
        }
    return std::sqrt(error / std::max(norm, 0.01 * static_cast<double>(b.size())));
}

// bf16: P is rounded before it is divided by its sum, the reference's after, and outputs are
// rounded: about 2^-9 relative, in the root mean square, each. fp32: sums in another order.
double tolerance(DType type) {
    return type == DType::bf16 ? 6e-3 : 3e-6;
}

const Layout kLayouts[] = {{2, 2, 24, 8, 16, {0, 1}},
                           {2, 2, 64, 32, 64, {0, 33, 33, 65, 200}},
                           {1, 1, 20, 7, 33, {0, 31, 63}},
                           {4, 2, 40, 0, 40, {0, 150}},
                           {3, 1, 16, 16, 8, {0, 32, 161, 300}}};

TEST(Attention, AgreesWithTheReference) {
    for (const DType type : {DType::bf16, DType::f32})
        for (const Layout& layout : kLayouts) {
            const Case want(layout, type);
            reference::attention(want.shape, want.q, want.kv(want.kv_matrix, want.k_shared),
                                 want.out, want.lse);
            reference::attention_backward(want.shape, want.backward());
            std::vector<Tensor> first;
            for_each_level([&](std::string_view level) {
                const Case got(layout, type);
                ops::attention(kHost, got.shape, got.q, got.kv(got.kv_matrix, got.k_shared),
                               got.out, got.lse);
                ops::attention_backward(kHost, got.shape, got.backward());
                const std::vector<Tensor> results = got.results(), expected = want.results();
                if (first.empty()) first = results;
                for (size_t i = 0; i < results.size(); ++i) {
                    EXPECT_LE(relative_error(results[i], expected[i]), tolerance(type))
                        << level << " " << name_of(type) << " " << layout.documents.back()
                        << " rows, result " << i;
                    EXPECT_TRUE(bit_equal(results[i], first[i])) << level << " result " << i;
                }
            });
        }
}

TEST(Attention, ADocumentDependsOnNoOther) {
    const Case all({2, 2, 64, 32, 64, {0, 70, 270}}, DType::bf16);
    ops::attention(kHost, all.shape, all.q, all.kv(all.kv_matrix, all.k_shared), all.out, all.lse);
    Case one({2, 2, 64, 32, 64, {0, 200}}, DType::bf16);
    one.q = all.q.slice(70, 270);
    one.kv_matrix = all.kv_matrix.slice(70, 270);
    one.k_shared = all.k_shared.slice(70, 270);
    ops::attention(kHost, one.shape, one.q, one.kv(one.kv_matrix, one.k_shared), one.out, {});
    EXPECT_TRUE(bit_equal(one.out, all.out.slice(70, 270)));
}

// One thread sums a whole head; with more threads than heads, all share the long documents' heads,
// by spans of keys and strips of queries.
TEST(Attention, WhoSumsDoesNotMatter) {
    const int before = runtime().threads;
    const Layout layouts[] = {{3, 1, 32, 32, 8, {0, 32, 161, 300}},
                              {4, 2, 64, 32, 64, {0, 33, 33, 600, 1150}},
                              {1, 1, 20, 7, 33, {0, 31, 290}},
                              {4, 4, 16, 16, 16, {0, 40, 80, 120, 160}}};
    for (const DType type : {DType::bf16, DType::f32})
        for (const Layout& layout : layouts) {
            std::vector<Tensor> first;
            for (const int threads : {1, 2, 5, 16}) {
                set_runtime(threads, runtime().numerics);
                const Case one(layout, type);
                ops::attention(kHost, one.shape, one.q, one.kv(one.kv_matrix, one.k_shared),
                               one.out, one.lse);
                ops::attention_backward(kHost, one.shape, one.backward());
                const std::vector<Tensor> results = one.results();
                if (first.empty()) first = results;
                for (size_t i = 0; i < results.size(); ++i)
                    EXPECT_TRUE(bit_equal(results[i], first[i]))
                        << threads << " threads, " << layout.documents.back() << " rows, result "
                        << i;
            }
        }
    set_runtime(before, runtime().numerics);
}

// The heads of a share, with as much of the chunks.
struct HeadsOfRank : Case {
    static Layout layout(const Case& whole, test::Share share) {
        return {whole.shape.heads / share.ranks,
                whole.shape.kv_heads / share.ranks,
                whole.shape.d_qk - whole.shape.d_shared,
                whole.shape.d_shared,
                whole.shape.d_v,
                whole.documents};
    }
    HeadsOfRank(const Case& whole, test::Share share)
        : Case(layout(whole, share), whole.q.dtype()) {
        shape.chunks = whole.shape.chunks / share.ranks;
        q = test::columns_of(whole.q, share, 1);
        kv_matrix = test::columns_of(whole.kv_matrix, share, 1);
        d_out = test::columns_of(whole.d_out, share, 1);
        k_shared = whole.k_shared;
        dk_shared = Tensor::empty({q.rows(), shape.d_shared}, DType::f32);
    }
};

void both_ways(const Case& c) {
    ops::attention(kHost, c.shape, c.q, c.kv(c.kv_matrix, c.k_shared), c.out, c.lse);
    ops::attention_backward(kHost, c.shape, c.backward());
}

using AttentionOrders = test::EveryOrder;
INSTANTIATE_TEST_SUITE_P(Each, AttentionOrders, test::offered_orders(), test::order_name);

TEST_P(AttentionOrders, RanksWithChunksOfTheHeadsMakeTheWhole) {
    const auto expect_whole = [](const Case& whole, const Case& unrounded, int64_t ranks,
                                 const std::string& what) {
        std::vector<Tensor> pieces;
        for (int64_t rank = 0; rank < ranks; ++rank) {
            const test::Share share{rank, ranks};
            const HeadsOfRank heads(whole, share);
            both_ways(heads);
            EXPECT_TRUE(bit_equal(heads.dq, test::columns_of(whole.dq, share, 1))) << what;
            EXPECT_TRUE(bit_equal(heads.dkv_matrix, test::columns_of(whole.dkv_matrix, share, 1)))
                << what;
            pieces.push_back(heads.dk_shared);
        }
        EXPECT_TRUE(bit_equal(test::sum_of_ranks(pieces, whole.q.dtype()), whole.dk_shared))
            << what;
        EXPECT_TRUE(bit_equal(pieces[0], unrounded.dk_shared)) << what;
    };
    for_each_level([&](std::string_view level) {
        for (const DType type : {DType::bf16, DType::f32})
            for (const auto& [heads, chunks] :
                 {std::pair<int64_t, int64_t>{4, 4}, {12, 4}, {8, 2}}) {
                const Layout layout{heads, heads, 16, 12, 8, {0, 33, 33, 70}};
                Case whole(layout, type), unrounded(layout, type);
                unrounded.dk_shared = Tensor::empty({70, 12}, DType::f32);
                whole.shape.chunks = unrounded.shape.chunks = chunks;
                both_ways(whole);
                both_ways(unrounded);
                for (int64_t ranks = 2; ranks <= chunks; ranks *= 2)
                    expect_whole(whole, unrounded, ranks,
                                 concat(level, " ", name_of(type), " ", heads, " heads in ", chunks,
                                        " chunks, ", ranks, " ranks"));
            }
    });
}

TEST(Attention, ChunksThatDoNotFitTheHeadsAreRefused) {
    Case heads({6, 6, 16, 12, 8, {0, 9}}, DType::bf16);
    heads.shape.chunks = 4;
    ops::attention(kHost, heads.shape, heads.q, heads.kv(heads.kv_matrix, heads.k_shared),
                   heads.out, heads.lse);
    EXPECT_CONTAINS(
        test::message_of(ExitCode::internal,
                         [&] { ops::attention_backward(kHost, heads.shape, heads.backward()); }),
        "6 key-value heads in 4 chunks");
}

// Scores of a few hundred: the running maximum must keep the exponentials finite.
TEST(Attention, LargeScoresStayFinite) {
    Case big({1, 1, 32, 0, 32, {0, 290}}, DType::f32);
    big.shape.scale = 30;
    ops::attention(kHost, big.shape, big.q, big.kv(big.kv_matrix, {}), big.out, big.lse);
    const Tensor out = Tensor::empty({290, 32}, DType::f32);
    reference::attention(big.shape, big.q, big.kv(big.kv_matrix, {}), out, {});
    EXPECT_LE(relative_error(big.out, out), 1e-4);  // fp32 scores of 1000 carry errors of 1e-4
}

}  // namespace
}  // namespace fucina
