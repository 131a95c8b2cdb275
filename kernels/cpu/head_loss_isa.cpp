// Cross-entropy of one row of logits, and its gradient.
#include "kernels/cpu/head_loss_kernels.h"
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

constexpr int64_t kSumBlock = 1024;  // exponentials are added in blocks, so that errors stay small

float row_largest(const float* x, int64_t n) {
    Vec most = set1(x[0]);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) most = max(load(x + i), most);
    float result = largest(most);
    for (; i < n; ++i) result = x[i] > result ? x[i] : result;
    return result;
}

float sum_of_exponentials(const float* x, int64_t n, float shift) {
    Vec total = zero();
    for (int64_t first = 0; first < n; first += kSumBlock) {
        const int64_t last = first + kSumBlock < n ? first + kSumBlock : n;
        Vec part = zero();
        int64_t i = first;
        for (; i + kLanes <= last; i += kLanes)
            part = add(part, exp(sub(load(x + i), set1(shift))));
        if (i < last) {
            float lanes[kLanes] = {};
            store_some(lanes, exp(sub(load_some(x + i, last - i), set1(shift))), last - i);
            part = add(part, load(lanes));
        }
        total = add(total, part);
    }
    return sum(total);
}

template <class T>
float loss_row(const LossRow& row, void* gradient) {
    auto* out = static_cast<T*>(gradient);
    if (row.label < 0) {
        for (int64_t i = 0; out != nullptr && i < row.vocab; i += kLanes)
            store_some(out + i, zero(), row.vocab - i);
        return 0.0f;
    }
    const float shift = row_largest(row.logits, row.vocab);
    const float total = sum_of_exponentials(row.logits, row.vocab, shift);
    const float target = row.logits[row.label];
    const double loss = logarithm(double{total}) - (double{target} - double{shift});
    if (out == nullptr) return static_cast<float>(loss);
    const Vec scale = set1(row.scale), share = set1(1.0f / total);
    for (int64_t i = 0; i < row.vocab; i += kLanes) {
        const Vec x = load_some(row.logits + i, row.vocab - i);
        store_some(out + i, mul(mul(exp(sub(x, set1(shift))), share), scale), row.vocab - i);
    }
    float lanes[kLanes] = {target - shift};
    store(lanes, mul(sub(mul(exp(load(lanes)), share), set1(1.0f)), scale));
    store_some(out + row.label, load(lanes), 1);
    return static_cast<float>(loss);
}

}  // namespace

constinit const HeadLossKernels kHeadLossKernels = {loss_row<uint16_t>, loss_row<float>};

}  // namespace fucina::cpu::FUCINA_ISA
