// The rows of the head's cross-entropy: losses, and the logits' gradient.
#include "kernels/cpu/head_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/cpu/head_loss_kernels.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/parallel_for.h"
#include "kernels/tree_sum.h"

namespace fucina::cpu {
namespace {

// Each chunk reads and writes all of dW, so chunks are large: kLogitsBytes, and no less than 128
// rows.
constexpr int64_t kLeastRows = 128;

class RowLosses {
  public:
    RowLosses(const ops::HeadLoss& io, const Tensor& logits, const Tensor& d_logits)
        : io_(io), logits_(logits), d_logits_(d_logits) {}

    // The first row of the logits is row `first` of the product.
    void run(int64_t first) const {
        const int64_t rows = logits_.rows();
        const int32_t* labels = io_.labels.data<int32_t>() + first;
        float* const losses = io_.loss.data<float>() + first;
        if (io_.ranks > 1) return over_ranks(labels, rows, losses);
        parallel_for(rows, io_.head.n, [&](int64_t i) {
            const auto [shift, target] = largest_and_target(i, labels[i]);
            losses[i] = finish_row(i, labels[i], shift, target, sum_of_row(i, labels[i], shift));
        });
    }

  private:
    // Largest logits and sums of their exponentials meet rank by rank.
    void over_ranks(const int32_t* labels, int64_t rows, float* losses) const {
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
    const Tensor logits_, d_logits_;
};

}  // namespace

int64_t head_loss_rows(int64_t rows, int64_t vocab, DType compute) {
    const int64_t most = kLogitsBytes / (vocab * (4 + size_of(compute))) / 32 * 32;
    return std::min(std::max(kLeastRows, most), (std::max<int64_t>(1, rows) + 31) / 32 * 32);
}

void row_losses(const ops::HeadLoss& io, int64_t first, const Tensor& logits,
                const Tensor& d_logits) {
    RowLosses(io, logits, d_logits).run(first);
}

}  // namespace fucina::cpu
