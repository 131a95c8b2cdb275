// SwiGLU: forward one thread a pack of elements; backward sixteen threads a row, for its dot.
#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/functions.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/swiglu.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256, kLanes = 16;

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

struct Backward {
    FloatRows dh, gate_up, d_gate_up, weighted_h;  // weighted_h.data may be null
    const float* row_weight = nullptr;
    float* d_row_weight = nullptr;
    int64_t rows = 0, width = 0;
    const int64_t* rows_end = nullptr;
};

// Sixteen threads a row, so that the dot has the order of the CPU's lanes.
__global__ void __launch_bounds__(kThreads) backward_kernel(const Backward io) {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int64_t row = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes;
    const bool inside = row < (io.rows_end != nullptr ? *io.rows_end : io.rows);
    const float weight = inside && io.row_weight != nullptr ? io.row_weight[row] : 1.0f;
    float dot = 0;
    for (int64_t c = lane; inside && c < io.width; c += kLanes) {
        const float dh = io.dh.load<1>(row, c).at[0], d = dh * weight;
        const float g = io.gate_up.load<1>(row, c).at[0];
        const float u = io.gate_up.load<1>(row, io.width + c).at[0];
        const float s = sigmoid(g), silu = g * s, product = silu * u;
        const float h = io.gate_up.bf16 ? to_float(from_float<__nv_bfloat16>(product)) : product;
        dot = fmaf(dh, h, dot);
        const float slope = s * fmaf(g, 1.0f - s, 1.0f);  // of silu
        io.d_gate_up.store<1>(row, c, {d * u * slope});
        io.d_gate_up.store<1>(row, io.width + c, {d * silu});
        if (io.weighted_h.data != nullptr) io.weighted_h.store<1>(row, c, {weight * h});
    }
    dot = sum_of_16(dot);
    if (inside && lane == 0 && io.d_row_weight != nullptr) io.d_row_weight[row] = dot;
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
    FUCINA_CHECK(same_form(io.gate_up, io.d_gate_up) && io.dh.rows() == io.gate_up.rows() &&
                     2 * io.dh.row_size() == io.gate_up.row_size(),
                 io.dh.describe(), " for ", io.gate_up.describe());
    FUCINA_CHECK(!io.weighted_h.defined() || (io.weighted_h.dtype() == io.gate_up.dtype() &&
                                              io.weighted_h.rows() == io.dh.rows() &&
                                              io.weighted_h.row_size() == io.dh.row_size()),
                 io.weighted_h.describe(), " beside ", io.gate_up.describe());
    const int64_t rows = io.dh.rows();
    if (rows == 0) return;
    launch(backward_kernel,
           {.grid = blocks_of(rows, kThreads / kLanes),
            .block = dim3(kThreads),
            .stream = exec.stream},
           {.dh = io.dh,
            .gate_up = io.gate_up,
            .d_gate_up = io.d_gate_up,
            .weighted_h = io.weighted_h,
            .row_weight = io.row_weight,
            .d_row_weight = io.d_row_weight,
            .rows = rows,
            .width = io.dh.row_size(),
            .rows_end = io.rows_end});
}

}  // namespace fucina::cuda
