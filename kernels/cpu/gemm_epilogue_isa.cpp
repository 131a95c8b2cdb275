// What is done with a finished 32 x 32 block of outputs while it lies in L1: stores, SwiGLU and its
// backward.
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

// Rounded to the operand type.
FUCINA_INLINE Vec rounded(Vec x, const uint16_t*) {
    return round_bf16(x);
}
FUCINA_INLINE Vec rounded(Vec x, const float*) {
    return x;
}

// The block to the right is next for these rows, after the other rows of the task: its lines can be
// under way until then. Rows are far apart, which no hardware prefetcher follows.
template <class T>
FUCINA_INLINE void prefetch_read(const T* line) {
    __builtin_prefetch(line + 64 / sizeof(T), 0, 2);
}
template <class T>
FUCINA_INLINE void prefetch_write(const T* line) {
    __builtin_prefetch(line + 64 / sizeof(T), 1, 2);
}

template <class T>
void store_block(const float* c, const StoreBlock& block) {
    for (int row = 0; row < block.rows; ++row, c += kBlock) {
        T* out = static_cast<T*>(block.out) + row * block.stride;
        prefetch_write(out);
        store_some(out, load(c), block.columns);
        if (block.columns > kLanes)
            store_some(out + kLanes, load(c + kLanes), block.columns - kLanes);
    }
}

void load_block(const StoreBlock& block, float* c) {
    for (int row = 0; row < block.rows; ++row, c += kBlock) {
        const float* in = static_cast<const float*>(block.out) + row * block.stride;
        store(c, load_some(in, block.columns));
        store(c + kLanes, load_some(in + kLanes, block.columns - kLanes));
    }
}

void stream_block(const float* c, const StoreBlock& block) {
    const auto address = reinterpret_cast<uintptr_t>(block.out);
    const bool whole_lines =
        block.columns == kBlock && address % 64 == 0 && block.stride % kLanes == 0;
    if (!whole_lines) return store_block<float>(c, block);
    for (int row = 0; row < block.rows; ++row, c += kBlock) {
        float* out = static_cast<float*>(block.out) + row * block.stride;
        stream(out, load(c));
        stream(out + kLanes, load(c + kLanes));
    }
}

template <class T>
void swiglu(const float* c, const SwigluBlock& block) {
    for (int row = 0; row < block.rows; ++row, c += kBlock) {
        const Vec g = rounded(load(c), static_cast<const T*>(nullptr));
        const Vec u = rounded(load(c + kLanes), static_cast<const T*>(nullptr));
        prefetch_write(static_cast<T*>(block.h) + row * block.h_stride);
        if (block.gate != nullptr) {
            const int64_t offset = row * block.gate_up_stride;
            prefetch_write(static_cast<T*>(block.gate) + offset);
            prefetch_write(static_cast<T*>(block.up) + offset);
            store_some(static_cast<T*>(block.gate) + offset, g, block.columns);
            store_some(static_cast<T*>(block.up) + offset, u, block.columns);
        }
        store_some(static_cast<T*>(block.h) + row * block.h_stride, mul(mul(g, sigmoid(g)), u),
                   block.columns);
    }
}

// The derivative of silu is s (1 + g (1 - s)), s = sigmoid(g).
template <class T>
FUCINA_INLINE void swiglu_backward_lanes(const float* c, const SwigluBackwardBlock& block, int row,
                                         int64_t column) {
    const int64_t columns = block.columns - column, in = row * block.gate_up_stride + column;
    if (column == 0) {
        prefetch_read(static_cast<const T*>(block.gate) + in);
        prefetch_read(static_cast<const T*>(block.up) + in);
        prefetch_write(static_cast<T*>(block.d_gate) + row * block.d_gate_up_stride);
        prefetch_write(static_cast<T*>(block.d_up) + row * block.d_gate_up_stride);
        prefetch_write(static_cast<T*>(block.weighted_h) + row * block.h_stride);
    }
    const Vec g = load_some(static_cast<const T*>(block.gate) + in, columns);
    const Vec u = load_some(static_cast<const T*>(block.up) + in, columns);
    const Vec weight = set1(block.row_weight == nullptr ? 1.0f : block.row_weight[row]);
    const Vec s = sigmoid(g), silu = mul(g, s), dh = load(c + column);
    const Vec h = rounded(mul(silu, u), static_cast<const T*>(nullptr));
    if (block.row_dot != nullptr) {
        float* dot = block.row_dot + row * kLanes;
        store(dot, fma(dh, h, load(dot)));
    }
    const Vec d = mul(dh, weight);
    const Vec slope = mul(s, fma(g, sub(set1(1.0f), s), set1(1.0f)));
    const int64_t out = row * block.d_gate_up_stride + column;
    store_some(static_cast<T*>(block.d_gate) + out, mul(mul(d, u), slope), columns);
    store_some(static_cast<T*>(block.d_up) + out, mul(d, silu), columns);
    store_some(static_cast<T*>(block.weighted_h) + row * block.h_stride + column, mul(weight, h),
               columns);
}

template <class T>
void swiglu_backward(const float* c, const SwigluBackwardBlock& block) {
    for (int row = 0; row < block.rows; ++row, c += kBlock)
        for (int64_t column = 0; column < block.columns; column += kLanes)
            swiglu_backward_lanes<T>(c, block, row, column);
}

float sum_lanes(const float* lanes) {
    return sum(load(lanes));
}

// n is a multiple of 16.
void add_lanes(const float* x, float* y, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) store(y + i, add(load(y + i), load(x + i)));
}

template <class T>
constexpr GemmEpilogues epilogues() {
    return {store_block<T>, store_block<float>, load_block, stream_block,
            swiglu<T>,      swiglu_backward<T>, sum_lanes,  add_lanes};
}

}  // namespace

constinit const GemmEpilogues kBf16Epilogues = epilogues<uint16_t>();
constinit const GemmEpilogues kFp32Epilogues = epilogues<float>();

}  // namespace fucina::cpu::FUCINA_ISA
