// Attention on CUDA: what the shared KernelCases do not say. Any head size, any alignment; results
// that depend on no other document, rank or neighbour; nothing written but the outputs.
#include "kernels/cuda/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/attention.h"
#include "tests/kernels/shares.h"
#include "tests/reference/reference.h"
#include "tests/simt/every_order.h"
#include "tests/simt/guarded.h"

namespace fucina {
namespace {

using test::bit_equal;
using test::Guarded;
using test::random_tensor;

struct Heads {
    int64_t heads, kv_heads, own, shared, v;
    std::vector<int64_t> documents;
    int64_t chunks = 1;

    int64_t tokens() const { return documents.back(); }
    AttentionShape shape() const {
        return {.heads = heads,
                .kv_heads = kv_heads,
                .d_qk = own + shared,
                .d_shared = shared,
                .d_v = v,
                .scale = 1.0f / std::sqrt(static_cast<float>(own + shared)),
                .chunks = chunks,
                .cu_seqlens = tensor_of(kHost, documents)};
    }
};

struct Inputs {
    Tensor q, kv, k_shared, d_out;  // kv: per head k_own | v
};

Inputs make_inputs(const Heads& s, DType type) {
    return {random_tensor({s.tokens(), s.heads * (s.own + s.shared)}, type, 1),
            random_tensor({s.tokens(), s.kv_heads * (s.own + s.v)}, type, 2),
            random_tensor({s.tokens(), s.shared}, type, 3),
            random_tensor({s.tokens(), s.heads * s.v}, type, 4)};
}

AttentionKv views(const Heads& s, const Tensor& kv, const Tensor& shared) {
    return {.k_own = kv,
            .k_shared = s.shared > 0 ? shared : Tensor(),
            .v = kv.columns(s.own, kv.row_size()),
            .k_head_stride = s.own + s.v,
            .v_head_stride = s.own + s.v};
}

struct Results {
    Tensor out, lse, dq, dkv, dk_shared;
    std::vector<Tensor> all() const { return {out, lse, dq, dkv, dk_shared}; }
};

Results make_results(const Heads& s, DType type, DType shared_type) {
    const auto empty = [](int64_t rows, int64_t columns, DType of) {
        return Guarded(rows, columns, of).view();
    };
    return {empty(s.tokens(), s.heads * s.v, type),
            Tensor::empty({s.heads, s.tokens()}, DType::f32),
            empty(s.tokens(), s.heads * (s.own + s.shared), type),
            empty(s.tokens(), s.kv_heads * (s.own + s.v), type),
            empty(s.tokens(), s.shared, shared_type)};
}

ops::AttentionBackward backward_of(const Heads& s, const Inputs& in, const Results& results) {
    return {.d_out = in.d_out,
            .out = results.out,
            .lse = results.lse,
            .q = in.q,
            .kv = views(s, in.kv, in.k_shared),
            .dq = results.dq,
            .dkv = views(s, results.dkv, results.dk_shared)};
}

Results run(const Heads& s, const Inputs& in, DType shared_type) {
    const Results results = make_results(s, in.q.dtype(), shared_type);
    cuda::attention(kHost, s.shape(), in.q, views(s, in.kv, in.k_shared), results.out, results.lse);
    cuda::attention_backward(kHost, s.shape(), backward_of(s, in, results));
    return results;
}
Results run(const Heads& s, const Inputs& in) {
    return run(s, in, in.q.dtype());
}

Results reference_of(const Heads& s, const Inputs& in) {
    const Results results = make_results(s, in.q.dtype(), in.q.dtype());
    reference::attention(s.shape(), in.q, views(s, in.kv, in.k_shared), results.out, results.lse);
    reference::attention_backward(s.shape(), backward_of(s, in, results));
    return results;
}

void expect_equal(const Results& a, const Results& b, const std::string& what) {
    for (size_t i = 0; i < a.all().size(); ++i)
        EXPECT_TRUE(bit_equal(a.all()[i], b.all()[i])) << what << ", result " << i;
}

constexpr DType kTypes[] = {DType::bf16, DType::f32};

// Heads of more columns than a block sums at a time, columns that fill no group, heads that share
// keys, documents that are empty or end with a tile.
const Heads kHeads[] = {{2, 2, 24, 8, 16, {0, 1, 1, 1}},
                        {1, 1, 270, 20, 300, {0, 9}},
                        {3, 1, 16, 16, 8, {0, 32, 96, 96, 130}},
                        {2, 1, 33, 0, 70, {0, 0, 64, 66}},
                        {4, 4, 5, 3, 7, {0, 70}, 4}};

TEST(CudaAttention, AgreesWithTheReferenceForAnyHeads) {
    for (const DType type : kTypes)
        for (const Heads& s : kHeads) {
            const Inputs in = make_inputs(s, type);
            const Results want = reference_of(s, in);
            std::vector<Results> found;
            for (const simt::Options& order : simt::every_order()) {
                const simt::OrderScope scope(order);
                found.push_back(run(s, in));
                expect_equal(found.back(), found[0], simt::name_of(order));
            }
            const double tolerance = type == DType::bf16 ? 1.6e-2 : 2e-5;
            for (size_t i = 0; i < want.all().size(); ++i) {
                if (want.all()[i].size() == 0) continue;
                // A query that sees one key has a gradient of zero, but for rounding.
                if (s.tokens() == 1 && i >= 2) continue;
                EXPECT_LE(test::relative_error(found[0].all()[i], want.all()[i]), tolerance)
                    << name_of(type) << " " << s.own << "+" << s.shared << ", result " << i;
            }
        }
}

// The same values where packs of columns can be read and where they cannot.
TEST(CudaAttention, AlignmentDoesNotMatter) {
    const auto shifted = [](const Tensor& x) {
        const Tensor whole = Tensor::empty({x.rows(), x.row_size() + 3}, x.dtype());
        const Tensor view = whole.columns(3, whole.row_size());
        for (int64_t i = 0; i < x.rows(); ++i)
            for (int64_t j = 0; j < x.row_size(); ++j) test::set(view, i, j, test::get(x, i, j));
        return view;
    };
    const Heads s{2, 1, 32, 16, 24, {0, 30, 75}};
    for (const DType type : kTypes) {
        const Inputs in = make_inputs(s, type);
        expect_equal(
            run(s, {shifted(in.q), shifted(in.kv), shifted(in.k_shared), shifted(in.d_out)}),
            run(s, in), "shifted");
    }
}

// With two keys and two columns no order of summation shows, but every rounding does.
TEST(CudaAttention, ShortDocumentsHaveTheBitsOfTheCpu) {
    const Heads s{2, 2, 1, 1, 2, {0, 2, 3, 5, 7, 8, 10, 12, 14, 16}};
    for (const DType type : kTypes) {
        const Inputs in = make_inputs(s, type);
        const Results want = make_results(s, type, type);
        cpu::attention(s.shape(), in.q, views(s, in.kv, in.k_shared), want.out, want.lse);
        cpu::attention_backward(s.shape(), backward_of(s, in, want));
        expect_equal(run(s, in), want, "CPU");
    }
}

TEST(CudaAttention, ADocumentDependsOnNoOther) {
    const Heads all{2, 2, 16, 8, 16, {0, 37, 137}}, one{2, 2, 16, 8, 16, {0, 100}};
    for (const DType type : kTypes) {
        const Inputs in = make_inputs(all, type);
        const auto last = [](const Tensor& x) { return x.slice(37, 137); };
        const Results whole = run(all, in);
        const Results part = run(one, {last(in.q), last(in.kv), last(in.k_shared), last(in.d_out)});
        EXPECT_TRUE(bit_equal(part.out, last(whole.out)) && bit_equal(part.dq, last(whole.dq)));
        EXPECT_TRUE(bit_equal(part.dkv, last(whole.dkv)));
        EXPECT_TRUE(bit_equal(part.dk_shared, last(whole.dk_shared)));
    }
}

TEST(CudaAttention, RanksWithChunksOfTheHeadsMakeTheWhole) {
    for (const DType type : kTypes)
        for (const int64_t chunks : {2, 4}) {
            const Heads s{8, 8, 6, 5, 4, {0, 33, 33, 70}, chunks};
            const Inputs in = make_inputs(s, type);
            const Results whole = run(s, in), unrounded = run(s, in, DType::f32);
            std::vector<Tensor> pieces;
            for (int64_t rank = 0; rank < chunks; ++rank) {
                const test::Share share{rank, chunks};
                const auto of_rank = [&](const Tensor& x) { return test::columns_of(x, share, 1); };
                Heads own = s;
                own.heads = own.kv_heads = s.heads / chunks;
                own.chunks = 1;
                const Results part =
                    run(own, {of_rank(in.q), of_rank(in.kv), in.k_shared, of_rank(in.d_out)},
                        DType::f32);
                EXPECT_TRUE(bit_equal(part.out, of_rank(whole.out)));
                EXPECT_TRUE(bit_equal(part.dq, of_rank(whole.dq)));
                EXPECT_TRUE(bit_equal(part.dkv, of_rank(whole.dkv)));
                pieces.push_back(part.dk_shared);
            }
            EXPECT_TRUE(bit_equal(test::sum_of_ranks(pieces, type), whole.dk_shared));
            EXPECT_TRUE(bit_equal(pieces[0], unrounded.dk_shared));
        }
}

TEST(CudaAttention, WritesNothingButItsOutputs) {
    const Heads s{2, 1, 12, 4, 10, {0, 70}};
    const Inputs in = make_inputs(s, DType::bf16);
    const Guarded out(70, 20, DType::bf16), lse(1, 2 * 70, DType::f32);
    const Guarded dq(70, 32, DType::bf16), dkv(70, 22, DType::bf16), shared(70, 4, DType::bf16);
    const Results results{out, lse.view().view({2, 70}), dq, dkv, shared};
    const AttentionKv kv = views(s, in.kv, in.k_shared);
    cuda::attention(kHost, s.shape(), in.q, kv, out, {});
    cuda::attention(kHost, s.shape(), in.q, kv, out, results.lse);
    cuda::attention_backward(kHost, s.shape(), backward_of(s, in, results));
    expect_equal(results, run(s, in), "guarded");
    EXPECT_TRUE(out.intact() && lse.intact() && dq.intact() && dkv.intact() && shared.intact());
}

TEST(CudaAttention, NoTokensAndLargeScores) {
    const Heads none{2, 2, 8, 4, 8, {0, 0}};
    run(none, make_inputs(none, DType::bf16));
    const Heads s{1, 1, 32, 0, 32, {0, 130}};
    const Inputs in = make_inputs(s, DType::f32);
    AttentionShape shape = s.shape();
    shape.scale = 30;  // scores of a few hundred
    const Tensor out = Tensor::empty({130, 32}, DType::f32), want = out.clone();
    cuda::attention(kHost, shape, in.q, views(s, in.kv, {}), out, {});
    reference::attention(shape, in.q, views(s, in.kv, {}), want, {});
    EXPECT_LE(test::relative_error(out, want), 1e-4);
}

TEST(CudaAttention, ChunksThatDoNotFitTheHeadsAreRefused) {
    const Heads s{6, 6, 4, 4, 4, {0, 3}, 4};
    EXPECT_THROW(run(s, make_inputs(s, DType::bf16)), Error);
}

struct Latents {
    int64_t heads, nope, rope, v, rank, cached, queries;
};

// The same sums in the same order, the same exp.
TEST(CudaAttention, DecodingHasTheBitsOfTheCpu) {
    const simt::OrderScope scope({simt::Order::random, 1, simt::Lateness::random});
    for (const DType type : kTypes)
        for (const Latents& s : {Latents{1, 3, 2, 5, 7, 1, 1}, Latents{4, 32, 32, 33, 64, 33, 1},
                                 Latents{3, 8, 4, 6, 80, 70, 4}}) {
            const Guarded found(s.queries, s.heads * s.v, type);
            const Tensor want = Tensor::empty({s.queries, s.heads * s.v}, type);
            ops::LatentAttention io{
                .heads = s.heads,
                .nope = s.nope,
                .v = s.v,
                .scale = 0.25f,
                .q = random_tensor({s.queries, s.heads * (s.nope + s.rope)}, type, 5),
                .c = test::with_strided_rows(random_tensor({s.cached, s.rank}, type, 6)),
                .k_rope = random_tensor({s.cached, s.rope}, type, 7),
                .kv_up = random_tensor({s.heads * (s.nope + s.v), s.rank}, DType::f32, 8),
                .out = found};
            cuda::latent_attention(kHost, io);
            io.out = want;
            cpu::latent_attention(io);
            EXPECT_TRUE(bit_equal(found, want)) << name_of(type) << " rank " << s.rank;
            EXPECT_TRUE(found.intact());
        }
}

}  // namespace
}  // namespace fucina
