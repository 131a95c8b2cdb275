// See row_kernels.h. Body and tail run the same code: lanes beyond the end hold zeros.
#include "kernels/cpu/row_kernels.h"

#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

FUCINA_INLINE Vec get(Cells x, int64_t at, int64_t left) {
    return x.bf16 ? load_some(static_cast<const uint16_t*>(x.data) + at, left)
                  : load_some(static_cast<const float*>(x.data) + at, left);
}

FUCINA_INLINE void put(Cells y, int64_t at, Vec value, int64_t left) {
    if (y.bf16)
        store_some(static_cast<uint16_t*>(y.data) + at, value, left);
    else
        store_some(static_cast<float*>(y.data) + at, value, left);
}

FUCINA_INLINE Vec round_like(Cells y, Vec value) {
    return y.bf16 ? round_bf16(value) : value;
}

// Sums over a row: four vectors in turn, so that additions overlap; then one fixed tree.
struct RowSum {
    Vec part[4] = {zero(), zero(), zero(), zero()};
};
FUCINA_INLINE float total(const RowSum& s) {
    return sum(add(add(s.part[0], s.part[1]), add(s.part[2], s.part[3])));
}

void norm(const NormRow& row) {
    RowSum squares;
    for (int64_t j = 0; j < row.width; j += kLanes) {
        const int64_t left = row.width - j;
        Vec x = get(row.x, j, left);
        if (row.residual.data != nullptr) {
            x = round_like(row.sum, add(x, get(row.residual, j, left)));
            put(row.sum, j, x, left);
        }
        Vec& part = squares.part[j / kLanes % 4];
        part = fma(x, x, part);
    }
    const float mean = total(squares) / static_cast<float>(row.width);
    const float rstd = 1.0f / __builtin_sqrtf(mean + row.eps);
    const Cells in = row.residual.data != nullptr ? row.sum : row.x;
    for (int64_t j = 0; j < row.width; j += kLanes) {
        const int64_t left = row.width - j;
        const Vec scaled = round_like(row.y, mul(get(in, j, left), set1(rstd)));
        put(row.y, j, mul(load_some(row.w + j, left), scaled), left);
    }
    if (row.rstd != nullptr) *row.rstd = rstd;
}

void norm_backward(const NormBackwardRow& row) {
    const Vec rstd = set1(row.rstd);
    RowSum dot;
    for (int64_t j = 0; j < row.width; j += kLanes) {
        const int64_t left = row.width - j;
        const Vec dn = mul(get(row.dy, j, left), load_some(row.w + j, left));
        Vec& part = dot.part[j / kLanes % 4];
        part = fma(dn, mul(get(row.x, j, left), rstd), part);
    }
    const Vec mean = set1(total(dot) / static_cast<float>(row.width));
    for (int64_t j = 0; j < row.width; j += kLanes) {
        const int64_t left = row.width - j;
        const Vec dn = mul(get(row.dy, j, left), load_some(row.w + j, left));
        const Vec normed = mul(get(row.x, j, left), rstd);
        Vec dx = mul(rstd, sub(dn, mul(normed, mean)));
        if (row.residual_grad.data != nullptr) dx = add(get(row.residual_grad, j, left), dx);
        put(row.dx, j, dx, left);
    }
}

FUCINA_INLINE Cells at(Cells x, int64_t offset) {
    return {static_cast<char*>(x.data) + offset * (x.bf16 ? 2 : 4), x.bf16};
}

// For 64 columns, whose sums stay in registers.
void norm_weight_columns(const NormWeightColumns& in, int64_t first) {
    Vec part[4];
    for (int i = 0; i < 4; ++i) part[i] = load(in.sum + first + i * kLanes);
    for (int64_t t = in.begin; t < in.end; ++t) {
        const Cells dy = at(in.dy, t * in.dy_stride + first), x = at(in.x, t * in.x_stride + first);
        const Vec rstd = set1(in.rstd[t]);
        for (int i = 0; i < 4; ++i) {
            const Vec normed = round_like(x, mul(get(x, i * kLanes, kLanes), rstd));
            part[i] = fma(get(dy, i * kLanes, kLanes), normed, part[i]);
        }
    }
    for (int i = 0; i < 4; ++i) store(in.sum + first + i * kLanes, part[i]);
}

void norm_weight(const NormWeightColumns& in) {
    int64_t whole = 0;
    for (; whole + 4 * kLanes <= in.width; whole += 4 * kLanes) norm_weight_columns(in, whole);
    for (int64_t t = in.begin; t < in.end; ++t) {
        const Cells dy = at(in.dy, t * in.dy_stride), x = at(in.x, t * in.x_stride);
        const Vec rstd = set1(in.rstd[t]);
        for (int64_t j = whole; j < in.width; j += kLanes) {
            const int64_t left = in.width - j;
            const Vec normed = round_like(x, mul(get(x, j, left), rstd));
            store_some(in.sum + j, fma(get(dy, j, left), normed, load_some(in.sum + j, left)),
                       left);
        }
    }
}

void combine(const CombineRow& row) {
    for (int64_t j = 0; j < row.width; j += kLanes) {
        const int64_t left = row.width - j;
        Vec out = zero();
        for (int64_t i = 0; i < row.count; ++i) {
            const Vec weight = set1(row.weights == nullptr ? 1.0f : row.weights[i]);
            out = fma(weight, get({const_cast<void*>(row.rows[i]), row.rows_bf16}, j, left), out);
        }
        if (row.add1.data != nullptr) out = add(out, get(row.add1, j, left));
        if (row.add2.data != nullptr) out = add(out, get(row.add2, j, left));
        put(row.out, j, out, left);
    }
}

constexpr int64_t kMostRotated = 512;  // columns; the caller checks

// y = (a cos - b sin, a sin + b cos) of each pair (a, b) of x: at (2i, 2i + 1), or (i, i + half).
// Plain loops over local arrays, which the compiler makes vectors of; no sum is reordered.
template <bool Interleaved>
FUCINA_INLINE void rotate(const float* x, const float* cos, const float* sin, int64_t half,
                          float* y) {
    for (int64_t i = 0; i < half; ++i) {
        const int64_t first = Interleaved ? 2 * i : i, second = Interleaved ? 2 * i + 1 : i + half;
        const float a = x[first], b = x[second];
        y[first] = a * cos[i] - b * sin[i];
        y[second] = a * sin[i] + b * cos[i];
    }
}

// Pairs side by side and a whole number of vectors: y = x cos + swapped(x) (-sin, sin).
void rope_pairs(const RopeRow& row) {
    alignas(64) float cos[kMostRotated], sin[kMostRotated];
    for (int64_t i = 0; i < row.half; ++i) {
        const float s = row.inverse ? -row.sin[i] : row.sin[i];
        cos[2 * i] = cos[2 * i + 1] = row.cos[i];
        sin[2 * i] = -s;
        sin[2 * i + 1] = s;
    }
    for (int64_t head = 0; head < row.heads; ++head) {
        const Cells cells = at(row.x, (head + 1) * row.head_dim - 2 * row.half);
        for (int64_t j = 0; j < 2 * row.half; j += kLanes) {
            const Vec x = get(cells, j, kLanes);
            put(cells, j, add(mul(x, load(cos + j)), mul(swap_pairs(x), load(sin + j))), kLanes);
        }
    }
}

void rope(const RopeRow& row) {
    if (row.interleaved && row.half % (kLanes / 2) == 0) return rope_pairs(row);
    alignas(64) float cos[kMostRotated / 2], sin[kMostRotated / 2];
    alignas(64) float x[kMostRotated], y[kMostRotated];
    for (int64_t i = 0; i < row.half; ++i) {
        cos[i] = row.cos[i];
        sin[i] = row.inverse ? -row.sin[i] : row.sin[i];
    }
    const int64_t rotated = 2 * row.half;
    for (int64_t head = 0; head < row.heads; ++head) {
        const Cells cells = at(row.x, (head + 1) * row.head_dim - rotated);
        for (int64_t j = 0; j < rotated; j += kLanes)
            store_some(x + j, get(cells, j, rotated - j), rotated - j);
        if (row.interleaved)
            rotate<true>(x, cos, sin, row.half, y);
        else
            rotate<false>(x, cos, sin, row.half, y);
        for (int64_t j = 0; j < rotated; j += kLanes)
            put(cells, j, load_some(y + j, rotated - j), rotated - j);
    }
}

void adamw(const AdamWRange& range) {
    const Vec scale = set1(range.grad_scale), decay = set1(range.decay);
    const Vec rate = set1(-range.rate), inverse_root = set1(range.inverse_root),
              eps = set1(range.eps);
    const Vec beta1 = set1(range.beta1), beta2 = set1(range.beta2);
    const Vec rest1 = set1(1.0f - range.beta1), rest2 = set1(1.0f - range.beta2);
    for (int64_t j = 0; j < range.count; j += kLanes) {
        const int64_t left = range.count - j;
        const Vec g = mul(load_some(range.grad + j, left), scale);
        const Vec m = fma(beta1, get(range.m, j, left), mul(rest1, g));
        const Vec v = fma(beta2, get(range.v, j, left), mul(mul(rest2, g), g));
        const Vec update = div(m, fma(sqrt(v), inverse_root, eps));
        const Vec w = fma(rate, update, mul(load_some(range.w + j, left), decay));
        put(range.m, j, m, left);
        put(range.v, j, v, left);
        store_some(range.w + j, w, left);
    }
}

void cast(Cells from, Cells to, int64_t count) {
    for (int64_t j = 0; j < count; j += kLanes) put(to, j, get(from, j, count - j), count - j);
}

void add_row(Cells from, float* to, int64_t count) {
    for (int64_t j = 0; j < count; j += kLanes) {
        const int64_t left = count - j;
        store_some(to + j, add(load_some(to + j, left), get(from, j, left)), left);
    }
}

// Element i is added to lane i % 32; then the lanes in order.
double sum_of_squares(const float* x, int64_t count) {
    constexpr int64_t kChains = 32;
    double lanes[kChains] = {};
    int64_t i = 0;
    for (; i + kChains <= count; i += kChains)
        for (int64_t j = 0; j < kChains; ++j) lanes[j] += double{x[i + j]} * double{x[i + j]};
    for (int64_t j = 0; i < count; ++i, ++j) lanes[j] += double{x[i]} * double{x[i]};
    double total = 0;
    for (const double lane : lanes) total += lane;
    return total;
}

void sigmoid_row(const float* x, float* y, int64_t count) {
    for (int64_t j = 0; j < count; j += kLanes)
        store_some(y + j, sigmoid(load_some(x + j, count - j)), count - j);
}

// Without branches, which would be mispredicted: faster than sorting for what routers choose from.
void ranks(const float* x, int64_t count, int32_t* rank) {
    for (int64_t i = 0; i < count; ++i) rank[i] = 0;
    for (int64_t other = 0; other < count; ++other) {
        const float value = x[other];
        for (int64_t i = 0; i < other; ++i) rank[i] += value > x[i] ? 1 : 0;
        for (int64_t i = other + 1; i < count; ++i) rank[i] += value >= x[i] ? 1 : 0;
    }
}

}  // namespace

extern const RowKernels kRowKernels = {norm,           norm_backward, norm_weight, combine,
                                       rope,           adamw,         cast,        add_row,
                                       sum_of_squares, sigmoid_row,   ranks};

}  // namespace fucina::cpu::FUCINA_ISA
