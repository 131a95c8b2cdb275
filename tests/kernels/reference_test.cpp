// The reference kernels against definitions written out once more, directly and slowly.
#include "tests/reference/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/runtime.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

using test::get;
using test::random_tensor;

// The order of gemm.h for one bf16 output of one leaf, padded to whole blocks of 32.
float bf16_order(const std::vector<float>& a, const std::vector<float>& b) {
    float total = 0;
    for (size_t block = 0; block < a.size(); block += 32) {
        float chain[2] = {0, 0};
        for (size_t i = block; i < block + 32; ++i)
            chain[i % 2] = i < a.size() ? std::fma(a[i], b[i], chain[i % 2]) : chain[i % 2] + 0.0f;
        total += chain[0] + chain[1];
    }
    return total;
}

float fp32_order(const std::vector<float>& a, const std::vector<float>& b) {
    float total = 0;
    for (size_t i = 0; i < a.size(); ++i) total = std::fma(a[i], b[i], total);
    return total;
}

TEST(Reference, LinearFollowsTheOrder) {
    flush_denormals();
    for (const DType type : {DType::bf16, DType::f32}) {
        const Tensor x = random_tensor({3, 77}, type, 1);
        const Tensor w = random_tensor({300, 77}, DType::f32, 2);
        const Tensor y = Tensor::empty({3, 300}, DType::f32);
        reference::linear(x, reference::pack(w, PackKind::forward, type), y);
        for (int64_t t = 0; t < 3; ++t)
            for (int64_t n = 0; n < 300; ++n) {
                std::vector<float> a, b;
                for (int64_t k = 0; k < 77; ++k) {
                    a.push_back(get(x, t, k));
                    const float weight = get(w, n, k);
                    b.push_back(type == DType::bf16 ? to_float(to_bfloat16(weight)) : weight);
                }
                ASSERT_EQ(get(y, t, n), type == DType::bf16 ? bf16_order(a, b) : fp32_order(a, b));
            }
    }
}

// K = 168 of two parts in four chunks: chunk c is columns [21 c, 21 (c + 1)) of the first part and
// of the second, which begins a block of its own.
TEST(Reference, ChunksOfPartsFollowTheOrder) {
    flush_denormals();
    const Tensor x = random_tensor({3, 168}, DType::bf16, 1);
    const Tensor w = random_tensor({5, 168}, DType::f32, 2);
    const Tensor y = Tensor::empty({3, 5}, DType::f32);
    reference::linear(
        x, reference::pack(w, PackKind::forward, DType::bf16, {.cut = {.chunks = 4, .parts = 2}}),
        y);
    for (int64_t t = 0; t < 3; ++t)
        for (int64_t n = 0; n < 5; ++n) {
            const auto chunk = [&](int64_t c) {
                std::vector<float> a(64), b(64);
                for (int64_t part = 0; part < 2; ++part)
                    for (int64_t i = 0; i < 21; ++i) {
                        const int64_t k = part * 84 + c * 21 + i;
                        a[static_cast<size_t>(part * 32 + i)] = get(x, t, k);
                        b[static_cast<size_t>(part * 32 + i)] = to_float(to_bfloat16(get(w, n, k)));
                    }
                return bf16_order(a, b);
            };
            ASSERT_EQ(get(y, t, n), (chunk(0) + chunk(1)) + (chunk(2) + chunk(3)));
        }
}

TEST(Reference, WeightGradientFollowsTheTree) {
    flush_denormals();
    const Tensor dy = random_tensor({90, 5}, DType::bf16, 3);
    const Tensor x = random_tensor({90, 300}, DType::bf16, 4);
    const Tensor dw = Tensor::empty({5, 300}, DType::f32);
    reference::linear_wgrad(dy, x, make_leaf_tree({0, 33, 33, 90}), dw);
    for (int64_t n = 0; n < 5; ++n)
        for (int64_t k = 0; k < 300; ++k) {
            const auto leaf = [&](int64_t begin, int64_t end) {
                std::vector<float> a, b;
                for (int64_t t = begin; t < end; ++t) {
                    a.push_back(get(dy, t, n));
                    b.push_back(get(x, t, k));
                }
                return bf16_order(a, b);
            };
            ASSERT_EQ(get(dw, n, k), (leaf(0, 33) + 0.0f) + leaf(33, 90));
        }
}

TEST(Reference, DgradIsForwardOfTheTranspose) {
    const Tensor w = random_tensor({40, 24}, DType::f32, 5);
    const Tensor dy = random_tensor({7, 40}, DType::f32, 6);
    Tensor wt = Tensor::empty({24, 40}, DType::f32);
    for (int64_t i = 0; i < 40; ++i)
        for (int64_t j = 0; j < 24; ++j) test::set(wt, j, i, get(w, i, j));
    const Tensor a = Tensor::empty({7, 24}, DType::f32), b = a.clone();
    reference::linear(dy, reference::pack(w, PackKind::dgrad, DType::f32), a);
    reference::linear(dy, reference::pack(wt, PackKind::forward, DType::f32), b);
    EXPECT_TRUE(test::bit_equal(a, b));
}

TEST(Reference, AttentionIsSoftmaxOverEarlierTokensOfTheDocument) {
    const std::vector<int64_t> cu = {0, 5, 6, 13};
    const AttentionShape shape{.heads = 2,
                               .kv_heads = 2,
                               .d_qk = 6,
                               .d_shared = 2,
                               .d_v = 3,
                               .scale = 0.4f,
                               .cu_seqlens = tensor_of(kHost, cu)};
    const Tensor q = random_tensor({13, 12}, DType::f32, 7);
    const Tensor kv = random_tensor({13, 14}, DType::f32, 8);
    const AttentionKv parts{.k_own = kv.columns(0, 11),
                            .k_shared = random_tensor({13, 2}, DType::f32, 9),
                            .v = kv.columns(4, 14),
                            .k_head_stride = 7,
                            .v_head_stride = 7};
    const Tensor out = Tensor::empty({13, 6}, DType::f32);
    reference::attention(shape, q, parts, out, {});
    for (int64_t document = 0; document < 3; ++document)
        for (int64_t t = cu[document]; t < cu[document + 1]; ++t)
            for (int64_t h = 0; h < 2; ++h) {
                std::vector<double> p;
                double sum = 0;
                for (int64_t s = cu[document]; s <= t; ++s) {
                    double score = 0;
                    for (int64_t j = 0; j < 6; ++j)
                        score += double{get(q, t, h * 6 + j)} *
                                 (j < 4 ? get(kv, s, h * 7 + j) : get(parts.k_shared, s, j - 4));
                    p.push_back(std::exp(0.4 * score));
                    sum += p.back();
                }
                for (int64_t j = 0; j < 3; ++j) {
                    double expected = 0;
                    for (size_t s = 0; s < p.size(); ++s)
                        expected += p[s] / sum *
                                    get(kv, cu[document] + static_cast<int64_t>(s), h * 7 + 4 + j);
                    ASSERT_NEAR(get(out, t, h * 3 + j), expected, 2e-6);
                }
            }
}

TEST(Reference, RouterKeepsTheBestGroupsAndBreaksTiesDownwards) {
    // Groups {0, 1}, {2, 3}, {4, 5}; equal logits tie; bias chooses but does not weigh.
    const RouterConfig config{.experts = 6, .top_k = 2, .groups = 3, .topk_groups = 1};
    const Tensor logits = Tensor::zeros({1, 6}, DType::f32);
    const Tensor bias = Tensor::zeros({6}, DType::f32);
    const Tensor scores = logits.clone(), weights = Tensor::empty({1, 2}, DType::f32);
    const Tensor indices = Tensor::empty({1, 2}, DType::i32);
    reference::router(config, logits, bias, scores, indices, weights);
    EXPECT_EQ(indices.data<int32_t>()[0], 0);
    EXPECT_EQ(indices.data<int32_t>()[1], 1);
    bias.data<float>()[4] = 0.5f;
    reference::router(config, logits, bias, scores, indices, weights);
    EXPECT_EQ(indices.data<int32_t>()[0], 4);
    EXPECT_EQ(indices.data<int32_t>()[1], 5);
    EXPECT_FLOAT_EQ(weights.data<float>()[0], 0.5f);
}

}  // namespace
}  // namespace fucina
