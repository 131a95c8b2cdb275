// The head's loss and gradients against the reference, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/embedding.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/levels.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

using test::bit_equal;
using test::for_each_level;
using test::get;
using test::random_tensor;

struct Head {
    Tensor x, w, loss, dx, dw;
    std::vector<int32_t> labels;
    LeafTree tree;

    Head(std::vector<int64_t> offsets, int64_t vocab, DType type)
        : tree(make_leaf_tree(std::move(offsets))) {
        const int64_t rows = tree.rows();
        x = random_tensor({rows, 40}, type, 1);
        w = random_tensor({vocab, 40}, DType::f32, 2, 0.5f);
        loss = Tensor::empty({rows}, DType::f32);
        dx = Tensor::empty({rows, 40}, type);
        dw = random_tensor({vocab, 40}, DType::f32, 3);
        test::Random random(4);
        for (int64_t t = 0; t < rows; ++t)
            labels.push_back(t % 7 == 3 ? kIgnoreLabel : static_cast<int32_t>(random.below(vocab)));
    }
    ops::HeadLoss io() const {
        return {.labels = labels.data(),
                .scale = 0.01f,
                .loss = loss,
                .dx = dx,
                .dw = dw,
                .tree = tree};
    }
};

double relative_error(const Tensor& a, const Tensor& b) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < a.rows(); ++i)
        for (int64_t j = 0; j < a.row_size(); ++j) {
            const double difference = double{get(a, i, j)} - get(b, i, j);
            error += difference * difference;
            norm += double{get(b, i, j)} * get(b, i, j);
        }
    return std::sqrt(error / (norm + 1e-30));
}

// Only the softmax differs from the reference, whose exponentials are fp64: about 2^-22 relative,
// which in bf16 moves a few logit gradients to the neighbouring value.
TEST(HeadLoss, AgreesWithTheReference) {
    const std::vector<std::vector<int64_t>> leaves = {{0, 1}, {0, 33, 33, 90}, {0, 300}};
    for (const DType type : {DType::bf16, DType::f32})
        for (const auto& offsets : leaves) {
            const Head want(offsets, 203, type);
            ops::HeadLoss io = want.io();
            io.x = want.x;
            io.head = reference::pack(want.w, PackKind::forward, type);
            io.head_dgrad = reference::pack(want.w, PackKind::dgrad, type);
            reference::head_loss(io);
            std::vector<Tensor> first;
            for_each_level([&](std::string_view level) {
                const Head got(offsets, 203, type);
                ops::HeadLoss out = got.io();
                out.x = got.x;
                out.head = ops::pack(got.w, PackKind::forward, type);
                out.head_dgrad = ops::pack(got.w, PackKind::dgrad, type);
                ops::head_loss(out);
                const double tolerance = type == DType::bf16 ? 2e-3 : 2e-6;
                EXPECT_LE(relative_error(got.loss, want.loss), 1e-6) << level;
                EXPECT_LE(relative_error(got.dx, want.dx), tolerance) << level;
                EXPECT_LE(relative_error(got.dw, want.dw), tolerance) << level;
                if (first.empty()) first = {got.loss, got.dx, got.dw};
                EXPECT_TRUE(bit_equal(got.loss, first[0])) << level;
                EXPECT_TRUE(bit_equal(got.dx, first[1])) << level;
                EXPECT_TRUE(bit_equal(got.dw, first[2])) << level;
            });
        }
}

// A vocabulary so large that the leaf is cut into chunks of 128 rows. The gradient of the logits is
// formed again in fp64; tolerance as above.
TEST(HeadLoss, ALeafMayBeCutIntoChunks) {
    const int64_t rows = 300, vocab = 70000;
    const Head got({0, rows}, vocab, DType::bf16);
    ops::HeadLoss io = got.io();
    io.x = got.x;
    io.head = ops::pack(got.w, PackKind::forward, DType::bf16);
    io.head_dgrad = ops::pack(got.w, PackKind::dgrad, DType::bf16);
    ops::head_loss(io);
    const Tensor logits = Tensor::empty({rows, vocab}, DType::f32);
    ops::linear(got.x, io.head, logits);
    const Tensor d_logits = Tensor::empty({rows, vocab}, DType::bf16);
    for (int64_t t = 0; t < rows; ++t) {
        const int32_t label = got.labels[static_cast<size_t>(t)];
        const bool ignored = label == kIgnoreLabel;
        const double lse = ignored ? 0 : double{get(logits, t, label)} + get(got.loss, t, 0);
        for (int64_t v = 0; v < vocab; ++v) {
            const double p = std::exp(get(logits, t, v) - lse);
            const double gradient = ignored ? 0 : (p - (v == label)) * double{io.scale};
            test::set(d_logits, t, v, static_cast<float>(gradient));
        }
    }
    const Tensor dw = Tensor::empty({vocab, 40}, DType::f32);
    ops::linear_wgrad(d_logits, got.x, got.tree, dw);
    EXPECT_LE(relative_error(got.dw, dw), 2e-3);
}

TEST(HeadLoss, ALabelOutsideTheVocabularyIsRefused) {
    Head head({0, 5}, 50, DType::f32);
    head.labels[2] = 50;
    ops::HeadLoss io = head.io();
    io.x = head.x;
    io.head = ops::pack(head.w, PackKind::forward, DType::f32);
    io.dx = {};
    io.dw = {};
    EXPECT_THROW(ops::head_loss(io), Error);
}

}  // namespace
}  // namespace fucina
