// Reference embedding, and the head with its cross-entropy.
#include "kernels/embedding.h"

#include <span>

#include "tests/reference/reference.h"
#include "tests/reference/rows.h"

namespace fucina::reference {

void embedding(const Tensor& ids, const Tensor& table, const Tensor& out) {
    parallel_for(out.rows(), out.row_size(), [&](int64_t t) {
        const int32_t id = ids.data<int32_t>()[t];
        FUCINA_CHECK(id >= 0 && id < table.rows(), "token id ", id, " of a vocabulary of ",
                     table.rows());
        store_row(out, t, load_row(table, id));
    });
}

void embedding_backward(const Tensor& ids, const Tensor& d_out, const LeafTree& tree,
                        const Tensor& d_table) {
    FUCINA_CHECK(tree.rows() == d_out.rows() && d_table.row_size() == d_out.row_size(), "gradient ",
                 d_out.describe(), " of an embedding ", d_table.describe(), ", tree of ",
                 tree.rows(), " rows");
    parallel_for(d_table.rows(), d_out.rows() + d_out.row_size(), [&](int64_t id) {
        sum_along_tree(tree, d_out.row_size(), d_table.row<float>(id),
                       [&](int64_t begin, int64_t end, float* sum) {
                           for (int64_t t = begin; t < end; ++t) {
                               if (ids.data<int32_t>()[t] != id) continue;
                               const std::vector<float> row = load_row(d_out, t);
                               for (size_t j = 0; j < row.size(); ++j) sum[j] += row[j];
                           }
                       });
    });
}

namespace {

// Of chunks: the sum of the first half's and of the second's.
double sum_of_exponentials(std::span<const float> logits, int64_t chunks, float largest) {
    const size_t half = logits.size() / 2;
    if (chunks > 1)
        return sum_of_exponentials(logits.first(half), chunks / 2, largest) +
               sum_of_exponentials(logits.subspan(half), chunks / 2, largest);
    double sum = 0;
    for (const float value : logits) sum += std::exp(double{value} - largest);
    return sum;
}

}  // namespace

void head_loss(const ops::HeadLoss& io) {
    check_chunks(io.chunks, io.head.n, "tokens of the vocabulary");
    const int64_t rows = io.x.rows(), vocab = io.head.n;
    const Tensor d_logits = Tensor::empty({rows, vocab}, io.head.dtype);
    const Tensor logits = Tensor::empty({rows, vocab}, DType::f32);
    linear(io.x, io.head, logits);
    parallel_for(rows, 8 * vocab, [&](int64_t t) {
        std::vector<float> row = load_row(logits, t);
        const int32_t label = io.labels.data<int32_t>()[t];
        FUCINA_CHECK(label == kIgnoreLabel || (label >= 0 && label < vocab), "label ", label,
                     " of a vocabulary of ", vocab);
        const float largest = *std::max_element(row.begin(), row.end());
        const double sum = sum_of_exponentials(row, io.chunks, largest);
        const double lse = largest + std::log(sum);
        const bool ignored = label == kIgnoreLabel;
        io.loss.data<float>()[t] =
            ignored ? 0.0f : static_cast<float>(lse - row[static_cast<size_t>(label)]);
        for (size_t j = 0; j < row.size(); ++j) {
            const double p = std::exp(row[j] - lse);
            const double target = static_cast<int64_t>(j) == label ? 1 : 0;
            row[j] = ignored ? 0.0f : static_cast<float>((p - target) * double{io.scale});
        }
        store_row(d_logits, t, row);
    });
    if (io.dx.defined()) linear(d_logits, io.head_dgrad, io.dx);
    if (io.dw.defined()) linear_wgrad(d_logits, io.x, io.tree, io.dw);
}

}  // namespace fucina::reference
