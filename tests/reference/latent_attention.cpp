// Reference of decoding with MLA: W_kv folded, every sum in fp64.
#include "tests/reference/reference.h"
#include "tests/reference/rows.h"

namespace fucina::reference {
namespace {

using Row = std::vector<float>;

double dot(const float* a, const float* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += double{a[i]} * double{b[i]};
    return sum;
}

// W_kᵀ q of a head.
Row folded(const Tensor& kv_up, int64_t first_row, const float* q, int64_t nope) {
    std::vector<double> sum(static_cast<size_t>(kv_up.row_size()), 0.0);
    for (int64_t i = 0; i < nope; ++i) {
        const Row w = load_row(kv_up, first_row + i);
        for (size_t j = 0; j < w.size(); ++j) sum[j] += double{q[i]} * double{w[j]};
    }
    return {sum.begin(), sum.end()};
}

}  // namespace

void latent_attention(const ops::LatentAttention& io) {
    const int64_t rope = io.k_rope.row_size(), rank = io.c.row_size(), width = io.nope + rope;
    for (int64_t t = 0; t < io.q.rows(); ++t) {
        const Row q = load_row(io.q, t);
        const int64_t visible = io.c.rows() - io.q.rows() + t + 1;
        for (int64_t head = 0; head < io.heads; ++head) {
            const float* of_head = q.data() + head * width;
            const int64_t first_row = head * (io.nope + io.v);
            const Row f = folded(io.kv_up, first_row, of_head, io.nope);
            std::vector<double> score(static_cast<size_t>(visible)), mixed(f.size(), 0.0);
            for (int64_t s = 0; s < visible; ++s) {
                const Row c = load_row(io.c, s), k = load_row(io.k_rope, s);
                score[static_cast<size_t>(s)] = io.scale * (dot(f.data(), c.data(), rank) +
                                                            dot(of_head + io.nope, k.data(), rope));
            }
            const double largest = *std::max_element(score.begin(), score.end());
            double sum = 0;
            for (double& x : score) sum += x = std::exp(x - largest);
            for (int64_t s = 0; s < visible; ++s) {
                const Row c = load_row(io.c, s);
                for (size_t j = 0; j < c.size(); ++j)
                    mixed[j] += score[static_cast<size_t>(s)] / sum * double{c[j]};
            }
            Row out(static_cast<size_t>(io.v));
            for (int64_t i = 0; i < io.v; ++i) {
                const Row w = load_row(io.kv_up, first_row + io.nope + i);
                double value = 0;
                for (size_t j = 0; j < w.size(); ++j) value += mixed[j] * double{w[j]};
                out[static_cast<size_t>(i)] = static_cast<float>(value);
            }
            store_row(io.out, t, head * io.v, io.v, out.data());
        }
    }
}

}  // namespace fucina::reference
