// The head and its cross-entropy, a chunk of rows at a time: logits of the chunk in fp32, their
// gradient in the compute type, then its share of dx and dW. dW of a leaf goes on where the chunk
// before stopped (chunks begin at multiples of 32 within a leaf, so the order of summation is the
// leaf's); finished leaves wait in a stack of dW partials for the tree.
#include "kernels/cpu/head_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/head_loss_kernels.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/optimizer.h"
#include "kernels/parallel_for.h"
#include "kernels/tree_sum.h"

namespace fucina::cpu {
namespace {

// Each chunk reads and writes all of dW, so chunks are large: kLogitsBytes, and no less than 128
// rows.
constexpr int64_t kLeastRows = 128;

class HeadLossPass {
  public:
    explicit HeadLossPass(const ops::HeadLoss& io) : io_(io) {
        const bool gradient = io.dx.defined() || io.dw.defined();
        const int64_t vocab = io.head.n;
        chunk_ = head_loss_rows(io.x.rows(), vocab, io.head.dtype);
        logits_ = Tensor::empty({chunk_, vocab}, DType::f32);
        // Rows a line longer, lest a column of them fall into a few sets of the caches.
        if (gradient)
            d_logits_ = Tensor::empty({chunk_, vocab + 32}, io.head.dtype).columns(0, vocab);
    }

    // Rows [begin, end) of x, which are one leaf; dw receives their gradient.
    void leaf(int64_t begin, int64_t end, const Tensor& dw) const {
        if (begin == end && dw.defined()) dw.zero();
        for (int64_t first = begin; first < end; first += chunk_) {
            const int64_t last = std::min(first + chunk_, end), rows = last - first;
            const Tensor x = io_.x.slice(first, last);
            grouped_linear(x, {.rows = rows}, io_.head, logits_.slice(0, rows));
            losses(first, rows);
            if (!d_logits_.defined()) continue;
            const Tensor d_logits = d_logits_.slice(0, rows);
            if (io_.dx.defined())
                grouped_linear(d_logits, {.rows = rows}, io_.head_dgrad, io_.dx.slice(first, last));
            if (dw.defined()) leaf_wgrad(d_logits, x, first != begin, dw);
        }
    }

  private:
    // Of the rows of the logits; writes their gradients too.
    void losses(int64_t first, int64_t rows) const {
        const int32_t* labels = io_.labels.data<int32_t>() + first;
        float* const losses = io_.loss.data<float>() + first;
        if (io_.ranks > 1) return losses_over_ranks(labels, rows, losses);
        parallel_for(rows, io_.head.n, [&](int64_t i) {
            const auto [shift, target] = largest_and_target(i, labels[i]);
            losses[i] = finish_row(i, labels[i], shift, target, sum_of_row(i, labels[i], shift));
        });
    }

    // Largest logits and sums of their exponentials meet rank by rank.
    void losses_over_ranks(const int32_t* labels, int64_t rows, float* losses) const {
        const Tensor own = Tensor::empty({rows, 2}, DType::f32);
        const Tensor all = Tensor::empty({io_.ranks * rows, 2}, DType::f32);
        parallel_for(rows, io_.head.n, [&](int64_t i) {
            const auto [shift, target] = largest_and_target(i, labels[i]);
            own.row<float>(i)[0] = shift;
            own.row<float>(i)[1] = target;
        });
        io_.gather(own, all);
        for (int64_t i = 0; i < rows; ++i)
            for (const int column : {0, 1})
                own.row<float>(i)[column] = largest_of(all.row<float>(i) + column, 2 * rows);
        const Tensor sums = Tensor::empty({rows}, DType::f32);
        const Tensor parts = Tensor::empty({io_.ranks * rows}, DType::f32);
        parallel_for(rows, io_.head.n, [&](int64_t i) {
            *sums.row<float>(i) = sum_of_row(i, labels[i], own.row<float>(i)[0]);
        });
        io_.gather(sums, parts);
        parallel_for(rows, io_.head.n, [&](int64_t i) {
            losses[i] = finish_row(i, labels[i], own.row<float>(i)[0], own.row<float>(i)[1],
                                   tree_sum(parts.row<float>(i), rows, io_.ranks));
        });
    }

    // Of a number of each rank, `stride` apart; NaN if one is.
    float largest_of(const float* x, int64_t stride) const {
        float largest = x[0];
        for (int rank = 1; rank < io_.ranks; ++rank) {
            const float next = x[rank * stride];
            if (!(next <= largest)) largest = next;
            if (std::isnan(largest)) break;
        }
        return largest;
    }
    static float tree_sum(const float* x, int64_t stride, int count) {
        if (count == 1) return *x;
        const int half = (count + 1) / 2;
        return tree_sum(x, stride, half) + tree_sum(x + half * stride, stride, count - half);
    }

    // The largest logit here, and the label's: -inf where another rank has it.
    std::pair<float, float> largest_and_target(int64_t i, int32_t label) const {
        const int64_t vocab = io_.head.n;
        FUCINA_CHECK(label == kIgnoreLabel || (label >= 0 && label < vocab * io_.ranks), "label ",
                     label, " of a vocabulary of ", vocab * io_.ranks);
        if (label == kIgnoreLabel) return {0.0f, 0.0f};
        const float* logits = logits_.row<float>(i);
        const int64_t column = label - io_.first;
        const bool here = column >= 0 && column < vocab;
        return {FUCINA_PICK(kHeadLossKernels).largest(logits, vocab),
                here ? logits[column] : -std::numeric_limits<float>::infinity()};
    }

    // Of exponentials, of the vocabulary here.
    float sum_of_row(int64_t i, int32_t label, float shift) const {
        if (label == kIgnoreLabel) return 0.0f;
        float sums[kPartialSums];
        sum_chunks(
            io_.chunks, sums, 1,
            [&](int64_t chunk, float* sum) {
                const int64_t count = io_.head.n / io_.chunks;
                *sum =
                    FUCINA_PICK(kHeadLossKernels)
                        .sum_of_exponentials(logits_.row<float>(i) + chunk * count, count, shift);
            },
            [](const float* x, float* y) { *y += *x; });
        return sums[0];
    }

    // Its loss; writes its gradient too.
    float finish_row(int64_t i, int32_t label, float shift, float target, float sum) const {
        const HeadLossKernels& kernels = FUCINA_PICK(kHeadLossKernels);
        const int64_t vocab = io_.head.n, element = size_of(io_.head.dtype);
        std::byte* const gradient =
            d_logits_.defined() ? d_logits_.raw() + i * d_logits_.row_stride() * element : nullptr;
        if (label == kIgnoreLabel) {
            if (gradient != nullptr) std::fill_n(gradient, vocab * element, std::byte{0});
            return 0.0f;
        }
        const int64_t column = label - io_.first;
        if (gradient != nullptr)
            (io_.head.dtype == DType::bf16 ? kernels.gradient_bf16 : kernels.gradient_f32)(
                {logits_.row<float>(i), vocab, column < vocab ? column : -1, shift, sum, io_.scale},
                gradient);
        return kernels.loss(target, shift, sum);
    }

    const ops::HeadLoss& io_;
    int64_t chunk_ = 0;
    Tensor logits_, d_logits_;
};

}  // namespace

int64_t head_loss_rows(int64_t rows, int64_t vocab, DType compute) {
    const int64_t most = kLogitsBytes / (vocab * (4 + size_of(compute))) / 32 * 32;
    return std::min(std::max(kLeastRows, most), (std::max<int64_t>(1, rows) + 31) / 32 * 32);
}

void head_loss(const ops::HeadLoss& io) {
    FUCINA_CHECK(io.loss.dtype() == DType::f32 && io.loss.size() == io.x.rows() &&
                     io.labels.size() == io.x.rows(),
                 "losses into ", io.loss.describe(), " of ", io.labels.describe(), " for ",
                 io.x.describe());
    check_chunks(io.chunks, io.head.n, "tokens of the vocabulary");
    FUCINA_CHECK(!io.dx.defined() || io.head_dgrad.cut.chunks == io.chunks, "head_dgrad in ",
                 io.head_dgrad.cut.chunks, " chunks, the vocabulary in ", io.chunks);
    const HeadLossPass pass(io);
    if (!io.dw.defined()) return pass.leaf(0, io.x.rows(), {});
    FUCINA_CHECK(io.tree.rows() == io.x.rows(), "a tree of ", io.tree.rows(), " rows for ",
                 io.x.describe());
    const LeafTree tree = summation_tree(io.tree);
    std::vector<Tensor> partial{io.dw};
    size_t depth = 0;
    if (tree.leaves() == 0) io.dw.zero();
    for (size_t leaf = 0; leaf < tree.merges.size(); ++leaf) {
        if (depth == partial.size())
            partial.push_back(Tensor::empty({io.dw.dim(0), io.dw.dim(1)}, DType::f32));
        pass.leaf(tree.offsets[leaf], tree.offsets[leaf + 1], partial[depth]);
        ++depth;
        for (int merge = tree.merges[leaf]; merge > 0; --merge) {
            --depth;
            add_in_place(partial[depth - 1], partial[depth]);
        }
    }
}

}  // namespace fucina::cpu
