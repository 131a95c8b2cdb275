// One head of one query against cached latents.
#include "kernels/cpu/latent_attention.h"
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

constexpr int64_t kColumns = 4 * kLanes;  // sums that are in registers at a time

// out[j] = sum over i < count of factor[i] · rows[i][j], j < width, one chain each.
template <class T>
void weighted_rows(const float* factor, const T* rows, int64_t stride, int64_t count, int64_t width,
                   float* out) {
    int64_t j = 0;
    for (; j + kColumns <= width; j += kColumns) {
        Vec sum[4] = {zero(), zero(), zero(), zero()};
        const T* row = rows + j;
        for (int64_t i = 0; i < count; ++i, row += stride) {
            const Vec left = set1(factor[i]);
            for (int v = 0; v < 4; ++v) sum[v] = fma(left, load(row + v * kLanes), sum[v]);
        }
        for (int v = 0; v < 4; ++v) store(out + j + v * kLanes, sum[v]);
    }
    for (; j < width; j += kLanes) {
        Vec sum = zero();
        const T* row = rows + j;
        for (int64_t i = 0; i < count; ++i, row += stride)
            sum = fma(set1(factor[i]), load_some(row, width - j), sum);
        store_some(out + j, sum, width - j);
    }
}

// Lanes of a·b, added to `sum`.
template <class T>
FUCINA_INLINE Vec add_dot(const float* a, const T* b, int64_t n, Vec sum_so_far) {
    Vec total = sum_so_far;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) total = fma(load(a + i), load(b + i), total);
    if (i < n) total = fma(load_some(a + i, n - i), load_some(b + i, n - i), total);
    return total;
}

// p[s] = e^(p[s] - max); returns their sum.
float exponentials(float* p, int64_t count) {
    Vec most = set1(p[0]);
    int64_t s = 0;
    for (; s + kLanes <= count; s += kLanes) most = max(load(p + s), most);
    float greatest = largest(most);
    for (; s < count; ++s) greatest = p[s] > greatest ? p[s] : greatest;
    // Lanes beyond the last are far below any other.
    for (s = count; s % kLanes != 0; ++s) p[s] = -__builtin_inff();
    Vec total = zero();
    for (s = 0; s < count; s += kLanes) {
        const Vec e = exp_nonpositive(sub(load(p + s), set1(greatest)));
        store(p + s, e);
        total = add(total, e);
    }
    return sum(total);
}

template <class T>
void head(const LatentHead& in) {
    float* q = in.scratch;
    float* folded = q + (in.nope + in.rope + kLanes - 1) / kLanes * kLanes;
    float* mixed = folded + (in.rank + kLanes - 1) / kLanes * kLanes;
    float* p = mixed + (in.rank + kLanes - 1) / kLanes * kLanes;
    const T* from = static_cast<const T*>(in.q);
    for (int64_t i = 0; i < in.nope + in.rope; i += kLanes)
        store(q + i, load_some(from + i, in.nope + in.rope - i));

    weighted_rows(q, in.kv_up, in.rank, in.nope, in.rank, folded);
    const T* c = static_cast<const T*>(in.c);
    const T* k_rope = static_cast<const T*>(in.k_rope);
    for (int64_t s = 0; s < in.visible; ++s) {
        const Vec lanes = add_dot(folded, c + s * in.c_stride, in.rank, zero());
        p[s] = in.scale * sum(add_dot(q + in.nope, k_rope + s * in.rope_stride, in.rope, lanes));
    }
    const Vec inverse = set1(1.0f / exponentials(p, in.visible));
    weighted_rows(p, c, in.c_stride, in.visible, in.rank, mixed);
    for (int64_t j = 0; j < in.rank; j += kLanes) store(mixed + j, mul(load(mixed + j), inverse));

    const float* w_v = in.kv_up + in.nope * in.rank;
    T* out = static_cast<T*>(in.out);
    float values[kLanes] = {};
    for (int64_t i = 0; i < in.v; i += kLanes) {
        const int64_t count = in.v - i < kLanes ? in.v - i : kLanes;
        for (int64_t j = 0; j < count; ++j)
            values[j] = sum(add_dot(mixed, w_v + (i + j) * in.rank, in.rank, zero()));
        store_some(out + i, load(values), count);
    }
}

}  // namespace

constinit const LatentKernels kBf16Latent = {head<uint16_t>};
constinit const LatentKernels kFp32Latent = {head<float>};

}  // namespace fucina::cpu::FUCINA_ISA
