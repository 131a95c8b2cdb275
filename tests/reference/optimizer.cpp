// Reference optimizer, norm and casts.
#include "kernels/optimizer.h"

#include "tests/reference/reference.h"
#include "tests/reference/rows.h"

namespace fucina::reference {

void adamw(const AdamW& step, const Tensor& w, const Tensor& grad, const Tensor& m,
           const Tensor& v) {
    FUCINA_CHECK(w.contiguous() && grad.contiguous() && m.contiguous() && v.contiguous() &&
                     w.size() == grad.size() && w.size() == m.size() && w.size() == v.size(),
                 "adamw of ", w.describe(), ", ", grad.describe(), ", ", m.describe(), ", ",
                 v.describe());
    const float decay = 1.0f - step.learning_rate * step.weight_decay;
    const float rate = step.learning_rate / step.bias_correction1;
    const float inverse_root = 1.0f / std::sqrt(step.bias_correction2);
    const Tensor m_flat = m.view({1, m.size()}), v_flat = v.view({1, v.size()});
    parallel_ranges(w.size(), 4096, 4096, [&](int64_t begin, int64_t end) {
        std::vector<float> first(static_cast<size_t>(end - begin)), second(first.size());
        load_row(m_flat, 0, begin, end - begin, first.data());
        load_row(v_flat, 0, begin, end - begin, second.data());
        for (size_t j = 0; j < first.size(); ++j) {
            float& weight = w.data<float>()[begin + static_cast<int64_t>(j)];
            const float g = grad.data<float>()[begin + static_cast<int64_t>(j)] * step.grad_scale;
            first[j] = std::fma(step.beta1, first[j], (1.0f - step.beta1) * g);
            second[j] = std::fma(step.beta2, second[j], (1.0f - step.beta2) * g * g);
            const float update = first[j] / std::fma(std::sqrt(second[j]), inverse_root, step.eps);
            weight = std::fma(-rate, update, weight * decay);
        }
        store_row(m_flat, 0, begin, end - begin, first.data());
        store_row(v_flat, 0, begin, end - begin, second.data());
    });
}

ExactSum sum_of_squares(const Tensor& x, int64_t chunks) {
    constexpr int64_t kBlock = 512, kChains = 32;
    const int64_t width = x.dim(x.rank() - 1), part = width / chunks;
    FUCINA_CHECK(x.contiguous() && width % chunks == 0, "sum of squares of ", x.describe());
    ExactSum total;
    for (int64_t i = 0; i < x.size(); i += part) {
        for (int64_t begin = i; begin < i + part; begin += kBlock) {
            double chains[kChains] = {}, block = 0;
            for (int64_t j = begin; j < std::min(begin + kBlock, i + part); ++j) {
                const double value = x.data<float>()[j];
                chains[(j - begin) % kChains] += value * value;
            }
            for (const double chain : chains) block += chain;
            total.add(block);
        }
    }
    return total;
}

void add_in_place(const Tensor& y, const Tensor& x) {
    FUCINA_CHECK(y.size() == x.size() && y.row_size() == x.row_size(), "add of ", x.describe(),
                 " to ", y.describe());
    parallel_for(y.rows(), y.row_size(), [&](int64_t i) {
        for (int64_t j = 0; j < y.row_size(); ++j) y.row<float>(i)[j] += x.row<float>(i)[j];
    });
}

void cast(const Tensor& x, const Tensor& out) {
    FUCINA_CHECK(x.size() == out.size() && x.row_size() == out.row_size(), "cast of ", x.describe(),
                 " to ", out.describe());
    parallel_for(x.rows(), x.row_size(), [&](int64_t i) { store_row(out, i, load_row(x, i)); });
}

}  // namespace fucina::reference
