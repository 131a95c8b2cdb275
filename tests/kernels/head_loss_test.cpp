// The head's loss and gradients against the reference, on every instruction set.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/head_loss_kernels.h"
#include "kernels/embedding.h"
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
        return {.labels = tensor_of(kHost, labels),
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
                out.head = ops::pack(kHost, got.w, PackKind::forward, type);
                out.head_dgrad = ops::pack(kHost, got.w, PackKind::dgrad, type);
                ops::head_loss(kHost, out);
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
    io.head = ops::pack(kHost, got.w, PackKind::forward, DType::bf16);
    io.head_dgrad = ops::pack(kHost, got.w, PackKind::dgrad, DType::bf16);
    ops::head_loss(kHost, io);
    const Tensor logits = Tensor::empty({rows, vocab}, DType::f32);
    ops::linear(kHost, got.x, io.head, logits);
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
    ops::linear_wgrad(kHost, d_logits, got.x, got.tree, dw);
    EXPECT_LE(relative_error(got.dw, dw), 2e-3);
}

// What a rank makes of its share of the vocabulary, and of what it hears of the others.
class HeadOfRank {
  public:
    HeadOfRank(const Head& head, int64_t chunks, test::Share share)
        : head_(head),
          chunks_(chunks / share.ranks),
          vocab_(head.w.rows() / share.ranks),
          first_(share.rank * vocab_),
          type_(head.x.dtype()),
          w_(head.w.slice(first_, first_ + vocab_)),
          logits_(Tensor::empty({head.x.rows(), vocab_}, DType::f32)) {
        ops::linear(kHost, head.x, ops::pack(kHost, w_, PackKind::forward, type_), logits_);
    }
    static const cpu::HeadLossKernels& kernels() {
        using namespace cpu;
        return FUCINA_PICK(kHeadLossKernels);
    }
    float largest(int64_t t) const { return kernels().largest(logits_.row<float>(t), vocab_); }

    // Of each of its chunks.
    void append_sums(int64_t t, float shift, std::vector<float>& sums) const {
        const int64_t count = vocab_ / chunks_;
        for (int64_t chunk = 0; chunk < chunks_; ++chunk)
            sums.push_back(
                kernels().sum_of_exponentials(logits_.row<float>(t) + chunk * count, count, shift));
    }
    // The label's logit, if it is here.
    const float* target(int64_t t) const {
        return label(t) < 0 ? nullptr : logits_.row<float>(t) + label(t);
    }
    struct Gradients {
        Tensor dx, dw;
    };
    Gradients gradients(const std::vector<float>& shift, const std::vector<float>& sum) const {
        const int64_t rows = head_.x.rows();
        const Tensor d_logits = Tensor::zeros({rows, vocab_}, type_);
        const auto gradient =
            type_ == DType::bf16 ? kernels().gradient_bf16 : kernels().gradient_f32;
        for (int64_t t = 0; t < rows; ++t)
            if (const auto i = static_cast<size_t>(t); head_.labels[i] != kIgnoreLabel)
                gradient({logits_.row<float>(t), vocab_, label(t), shift[i], sum[i], 0.01f},
                         d_logits.raw() + t * vocab_ * size_of(type_));
        const Gradients out{Tensor::empty({rows, w_.row_size()}, DType::f32),
                            Tensor::empty({vocab_, w_.row_size()}, DType::f32)};
        ops::linear(kHost, d_logits,
                    ops::pack(kHost, w_, PackKind::dgrad, type_, {.cut = {.chunks = chunks_}}),
                    out.dx);
        ops::linear_wgrad(kHost, d_logits, head_.x, head_.tree, out.dw);
        return out;
    }

  private:
    // Where among the logits here, or -1.
    int64_t label(int64_t t) const {
        const int64_t at = head_.labels[static_cast<size_t>(t)] - first_;
        return at >= 0 && at < vocab_ ? at : -1;
    }

    const Head& head_;
    const int64_t chunks_, vocab_, first_;
    const DType type_;
    const Tensor w_, logits_;
};

float tree_of(const std::vector<float>& x) {
    return x.size() == 2 ? x[0] + x[1] : (x[0] + x[1]) + (x[2] + x[3]);
}

// head has been made whole.
void expect_ranks_make_the_whole(const Head& head, int64_t chunks, int64_t ranks,
                                 const std::string& what) {
    std::vector<HeadOfRank> shares;
    for (int64_t rank = 0; rank < ranks; ++rank)
        shares.emplace_back(head, chunks, test::Share{rank, ranks});
    std::vector<float> shift(head.labels.size()), sum(head.labels.size());
    for (size_t i = 0; i < head.labels.size(); ++i) {
        if (head.labels[i] == kIgnoreLabel) continue;
        const auto t = static_cast<int64_t>(i);
        std::vector<float> sums;
        const float* target = nullptr;
        shift[i] = shares[0].largest(t);
        for (const HeadOfRank& share : shares) shift[i] = std::max(shift[i], share.largest(t));
        for (const HeadOfRank& share : shares) {
            share.append_sums(t, shift[i], sums);
            if (share.target(t) != nullptr) target = share.target(t);
        }
        sum[i] = tree_of(sums);
        EXPECT_EQ(head.loss.data<float>()[t], HeadOfRank::kernels().loss(*target, shift[i], sum[i]))
            << what << " row " << t;
    }
    std::vector<Tensor> dx, dw;
    for (const HeadOfRank& share : shares) {
        const HeadOfRank::Gradients made = share.gradients(shift, sum);
        dx.push_back(made.dx);
        const int64_t first = static_cast<int64_t>(dw.size()) * made.dw.rows();
        EXPECT_TRUE(bit_equal(made.dw, head.dw.slice(first, first + made.dw.rows()))) << what;
        dw.push_back(made.dw);
    }
    EXPECT_TRUE(bit_equal(test::sum_of_ranks(dx, head.x.dtype()), head.dx)) << what;
}

ops::HeadLoss chunked(const Head& head, int64_t chunks, int64_t dgrad_chunks) {
    ops::HeadLoss io = head.io();
    io.x = head.x;
    io.head = ops::pack(kHost, head.w, PackKind::forward, head.x.dtype());
    io.head_dgrad = ops::pack(kHost, head.w, PackKind::dgrad, head.x.dtype(),
                              {.cut = {.chunks = dgrad_chunks}});
    io.chunks = chunks;
    return io;
}

using HeadLossOrders = test::EveryOrder;
INSTANTIATE_TEST_SUITE_P(Each, HeadLossOrders, test::offered_orders(), test::order_name);

TEST_P(HeadLossOrders, RanksWithChunksOfTheVocabularyMakeTheWhole) {
    for_each_level([&](std::string_view level) {
        for (const DType type : {DType::bf16, DType::f32})
            for (const auto& [vocab, chunks] :
                 {std::pair<int64_t, int64_t>{86, 2}, {132, 4}, {256, 4}, {4400, 4}}) {
                const Head head({0, 11}, vocab, type);
                ops::head_loss(kHost, chunked(head, chunks, chunks));
                for (int64_t ranks = 2; ranks <= chunks; ranks *= 2)
                    expect_ranks_make_the_whole(
                        head, chunks, ranks,
                        concat(level, " ", name_of(type), " ", vocab, " in ", chunks, " chunks, ",
                               ranks, " ranks"));
            }
    });
}

TEST(HeadLoss, ChunksThatDoNotFitAreRefused) {
    const auto refusal = [](int64_t vocab, int64_t chunks, int64_t dgrad_chunks) {
        const Head head({0, 5}, vocab, DType::f32);
        const ops::HeadLoss io = chunked(head, chunks, dgrad_chunks);
        return test::message_of(ExitCode::internal, [&] { ops::head_loss(kHost, io); });
    };
    EXPECT_CONTAINS(refusal(86, 4, 2), "86 tokens of the vocabulary in 4 chunks");
    EXPECT_CONTAINS(refusal(88, 4, 2), "head_dgrad in 2 chunks, the vocabulary in 4");
}

TEST(HeadLoss, ALabelOutsideTheVocabularyIsRefused) {
    Head head({0, 5}, 50, DType::f32);
    head.labels[2] = 50;
    ops::HeadLoss io = head.io();
    io.x = head.x;
    io.head = ops::pack(kHost, head.w, PackKind::forward, DType::f32);
    io.dx = {};
    io.dw = {};
    EXPECT_THROW(ops::head_loss(kHost, io), Error);
}

}  // namespace
}  // namespace fucina
