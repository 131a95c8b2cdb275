// SwiGLU: forward one thread a pack of elements; backward one block a row, for the row's dot.
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/swiglu.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

template <class T>
struct Forward {
    Matrix<const T> gate_up;
    Matrix<T> h;
    int64_t width = 0;         // F
    int64_t blocks_a_row = 0;  // rows · blocks_a_row blocks: rows alone may exceed grid.y
};

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) forward_kernel(const Forward<T> io) {
    const int64_t row = blockIdx.x / io.blocks_a_row;
    const int64_t c = (blockIdx.x % io.blocks_a_row * kThreads + threadIdx.x) * kPack;
    if (c >= io.width) return;
    const Pack<T, kPack> gate = load<kPack>(io.gate_up.row(row) + c);
    const Pack<T, kPack> up = load<kPack>(io.gate_up.row(row) + io.width + c);
    Pack<T, kPack> h;
    for (int i = 0; i < kPack; ++i) {
        const float g = to_float(gate.at[i]);
        h.at[i] = from_float<T>(g * sigmoid(g) * to_float(up.at[i]));
    }
    store(io.h.row(row) + c, h);
}

template <class T>
struct Backward {
    Matrix<const T> dh, gate_up;
    const float* row_weight = nullptr;
    Matrix<T> d_gate_up, weighted_h;  // weighted_h.data may be null
    float* d_row_weight = nullptr;
    int64_t width = 0;
};

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) backward_kernel(const Backward<T> io) {
    const int64_t row = blockIdx.x;
    const float weight = io.row_weight != nullptr ? io.row_weight[row] : 1.0f;
    float dot = 0;
    for (int64_t c = threadIdx.x * kPack; c < io.width; c += kThreads * kPack) {
        const Pack<T, kPack> dh = load<kPack>(io.dh.row(row) + c);
        const Pack<T, kPack> gate = load<kPack>(io.gate_up.row(row) + c);
        const Pack<T, kPack> up = load<kPack>(io.gate_up.row(row) + io.width + c);
        Pack<T, kPack> d_gate, d_up, weighted;
        for (int i = 0; i < kPack; ++i) {
            const float g = to_float(gate.at[i]), u = to_float(up.at[i]);
            const float s = sigmoid(g), silu = g * s;
            const float h = to_float(from_float<T>(silu * u)), d = to_float(dh.at[i]) * weight;
            dot = fmaf(to_float(dh.at[i]), h, dot);
            weighted.at[i] = from_float<T>(weight * h);
            d_gate.at[i] = from_float<T>(d * u * (s * (1.0f + g * (1.0f - s))));
            d_up.at[i] = from_float<T>(d * silu);
        }
        store(io.d_gate_up.row(row) + c, d_gate);
        store(io.d_gate_up.row(row) + io.width + c, d_up);
        if (io.weighted_h.data != nullptr) store(io.weighted_h.row(row) + c, weighted);
    }
    if (io.d_row_weight == nullptr) return;
    dot = block_sum<kThreads>(dot);
    if (threadIdx.x == 0) io.d_row_weight[row] = dot;
}

template <class T>
void run_forward(const Tensor& gate_up, const Tensor& h, Stream stream) {
    constexpr int kPack = 16 / sizeof(T);
    Forward<T> io{.gate_up = gate_up, .h = h, .width = h.row_size()};
    const bool packed = packs<kPack>(io.width, io.gate_up, io.h);
    const int64_t elements = kThreads * (packed ? kPack : 1);
    io.blocks_a_row = (io.width + elements - 1) / elements;
    launch(packed ? forward_kernel<T, kPack> : forward_kernel<T, 1>,
           {.grid = dim3(static_cast<unsigned>(h.rows() * io.blocks_a_row)),
            .block = dim3(kThreads),
            .stream = stream},
           io);
}

template <class T>
void run_backward(const SwigluBackward& in, Stream stream) {
    constexpr int kPack = 16 / sizeof(T);
    const Backward<T> io{.dh = in.dh,
                         .gate_up = in.gate_up,
                         .row_weight = in.row_weight,
                         .d_gate_up = in.d_gate_up,
                         .weighted_h = in.weighted_h,
                         .d_row_weight = in.d_row_weight,
                         .width = in.dh.row_size()};
    const bool packed = packs<kPack>(io.width, io.dh, io.gate_up, io.d_gate_up, io.weighted_h);
    launch(packed ? backward_kernel<T, kPack> : backward_kernel<T, 1>,
           {.grid = dim3(static_cast<unsigned>(in.dh.rows())),
            .block = dim3(kThreads),
            .stream = stream},
           io);
}

}  // namespace

void swiglu(const Exec& exec, const Tensor& gate_up, const Tensor& h) {
    FUCINA_CHECK(gate_up.dtype() == h.dtype() && gate_up.rows() == h.rows() &&
                     gate_up.row_size() == 2 * h.row_size(),
                 gate_up.describe(), " for ", h.describe());
    if (h.size() == 0) return;
    h.dtype() == DType::bf16 ? run_forward<__nv_bfloat16>(gate_up, h, exec.stream)
                             : run_forward<float>(gate_up, h, exec.stream);
}

void swiglu_backward(const Exec& exec, const SwigluBackward& io) {
    FUCINA_CHECK(same_form(io.gate_up, io.d_gate_up) && io.dh.dtype() == io.gate_up.dtype() &&
                     io.dh.rows() == io.gate_up.rows() &&
                     2 * io.dh.row_size() == io.gate_up.row_size(),
                 io.dh.describe(), " for ", io.gate_up.describe());
    FUCINA_CHECK(!io.weighted_h.defined() || same_form(io.weighted_h, io.dh),
                 io.weighted_h.describe(), " beside ", io.dh.describe());
    if (io.dh.rows() == 0) return;
    io.dh.dtype() == DType::bf16 ? run_backward<__nv_bfloat16>(io, exec.stream)
                                 : run_backward<float>(io, exec.stream);
}

}  // namespace fucina::cuda
