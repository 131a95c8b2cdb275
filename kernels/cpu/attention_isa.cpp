// Softmax of a strip of scores with a running maximum, and its gradient.
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

constexpr int64_t kBlock = 32;
const float kNothing = -__builtin_inff();

FUCINA_INLINE Vec lane_numbers() {
    const float numbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return load(numbers);
}

// x in the first `visible` lanes, `other` in the rest.
FUCINA_INLINE Vec keep_first(Vec x, int64_t visible, Vec other) {
    if (visible >= kLanes) return x;
    return select_less(lane_numbers(), set1(static_cast<float>(visible)), x, other);
}

// Scores of the 32 keys of block `block` of a row of the strip.
FUCINA_INLINE const float* scores_of(const SoftmaxStrip& strip, int row, int64_t block) {
    return strip.scores + (block * kBlock + row) * kBlock;
}

// The rows' new maxima, and how much the sums so far shrink by them.
FUCINA_INLINE void raise_maxima(const SoftmaxStrip& strip) {
    alignas(64) float before[kBlock];
    for (int row = 0; row < strip.rows; ++row) {
        const int64_t visible = strip.visible + row;
        before[row] = strip.largest[row];
        Vec most = set1(before[row]);
        for (int64_t j = 0; j < strip.keys && j < visible; j += kLanes) {
            const Vec s =
                mul(load(scores_of(strip, row, j / kBlock) + j % kBlock), set1(strip.scale));
            most = max(keep_first(s, visible - j, set1(kNothing)), most);
        }
        strip.largest[row] = largest(most);
    }
    for (int row = 0; row < strip.rows; row += kLanes)
        store_some(strip.shrink + row,
                   exp_nonpositive(sub(load_some(before + row, strip.rows - row),
                                       load_some(strip.largest + row, strip.rows - row))),
                   strip.rows - row);
}

template <class T>
void softmax(const SoftmaxStrip& strip) {
    raise_maxima(strip);
    for (int row = 0; row < strip.rows; ++row) {
        const int64_t visible = strip.visible + row;
        const Vec shift = set1(strip.largest[row]), scale = set1(strip.scale);
        Vec total = mul(load(strip.lanes + row * kLanes), set1(strip.shrink[row]));
        T* p = static_cast<T*>(strip.p) + row * strip.keys;
        for (int64_t j = 0; j < strip.keys; j += kLanes) {
            Vec e = zero();
            if (j < visible) {
                const Vec s = mul(load(scores_of(strip, row, j / kBlock) + j % kBlock), scale);
                e = keep_first(exp_nonpositive(sub(s, shift)), visible - j, zero());
            }
            total = add(total, e);
            store(p + j, e);
        }
        store(strip.lanes + row * kLanes, total);
    }
}

void finish(const float* largest, const float* lanes, int rows, float* lse, float* inverse) {
    for (int row = 0; row < rows; ++row) {
        const float total = sum(load(lanes + row * kLanes));
        lse[row] = static_cast<float>(double{largest[row]} + logarithm(double{total}));
        inverse[row] = 1.0f / total;
    }
}

void scale_rows(const RowScale& scale) {
    for (int64_t block = 0; block < scale.blocks; ++block)
        for (int row = 0; row < scale.rows; ++row) {
            float* c = scale.c + (block * kBlock + row) * kBlock;
            const Vec factor = set1(scale.factor[row]);
            store(c, mul(load(c), factor));
            store(c + kLanes, mul(load(c + kLanes), factor));
        }
}

// P = e^(scale·s - lse), dS = P (dP - delta) scale; rows beyond in.rows are zeros.
template <class T>
void softmax_gradient(const SoftmaxGradient& in) {
    for (int row = 0; row < kBlock; ++row) {
        const int64_t visible = row < in.rows ? in.visible + row : 0;
        for (int64_t j = 0; j < kBlock; j += kLanes) {
            Vec p = zero(), d_s = zero();
            if (j < visible) {
                const Vec scores = load(in.scores + row * kBlock + j);
                p = exp_nonpositive(sub(mul(scores, set1(in.scale)), set1(in.lse[row])));
                p = keep_first(p, visible - j, zero());
                const Vec d_p = load(in.d_p + row * kBlock + j);
                d_s = mul(mul(p, sub(d_p, set1(in.delta[row]))), set1(in.scale));
                d_s = keep_first(d_s, visible - j, zero());
            }
            store(static_cast<T*>(in.p) + row * in.p_stride + j, p);
            store(static_cast<T*>(in.d_s) + row * in.d_s_stride + j, d_s);
        }
    }
}

template <class T>
void row_dots(const RowDots& in) {
    for (int row = 0; row < in.rows; ++row) {
        const T* a = static_cast<const T*>(in.a) + row * in.a_stride;
        const T* b = static_cast<const T*>(in.b) + row * in.b_stride;
        Vec total = zero();
        const int64_t ahead = row + 8 < in.rows ? 8 : 0;  // rows of a head lie far apart
        for (int64_t i = 0; i < in.columns; i += kLanes) {
            __builtin_prefetch(a + ahead * in.a_stride + i);
            __builtin_prefetch(b + ahead * in.b_stride + i);
            total = fma(load_some(a + i, in.columns - i), load_some(b + i, in.columns - i), total);
        }
        in.out[row] = sum(total);
    }
}

}  // namespace

constinit const AttentionKernels kBf16Attention = {softmax<uint16_t>, finish, scale_rows,
                                                   softmax_gradient<uint16_t>, row_dots<uint16_t>};
constinit const AttentionKernels kFp32Attention = {softmax<float>, finish, scale_rows,
                                                   softmax_gradient<float>, row_dots<float>};

}  // namespace fucina::cpu::FUCINA_ISA
