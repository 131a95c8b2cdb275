// The phases of the cross-entropy of a row of logits and of its gradient.
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

float loss(float target, float shift, float total) {
    return static_cast<float>(logarithm(double{total}) - (double{target} - double{shift}));
}

template <class T>
void gradient(const LossRow& row, void* gradient) {
    auto* out = static_cast<T*>(gradient);
    const Vec scale = set1(row.scale), share = set1(1.0f / row.sum);
    for (int64_t i = 0; i < row.count; i += kLanes) {
        const Vec x = load_some(row.logits + i, row.count - i);
        store_some(out + i, mul(mul(exp(sub(x, set1(row.shift))), share), scale), row.count - i);
    }
    if (row.label < 0) return;
    float lanes[kLanes] = {row.logits[row.label] - row.shift};
    store(lanes, mul(sub(mul(exp(load(lanes)), share), set1(1.0f)), scale));
    store_some(out + row.label, load(lanes), 1);
}

}  // namespace

constinit const HeadLossKernels kHeadLossKernels = {row_largest, sum_of_exponentials, loss,
                                                    gradient<uint16_t>, gradient<float>};

}  // namespace fucina::cpu::FUCINA_ISA
