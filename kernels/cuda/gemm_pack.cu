// pack(): fp32 master weights as rows along k, rounded to the compute type; for dgrad transposed,
// 32 x 32 at a time through shared memory.
#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/rows.h"

namespace fucina::cuda {
namespace {

constexpr int kSquare = 32, kThreads = 256, kRowsAtOnce = kThreads / kSquare;

template <class T>
struct Transpose {
    const float* from = nullptr;  // [groups, rows, columns]
    T* to = nullptr;              // [groups, columns, rows]
    int64_t rows = 0, columns = 0, squares_a_row = 0;
};

// blockIdx: x counts squares, y groups.
template <class T>
__global__ void __launch_bounds__(kThreads) transpose_kernel(const Transpose<T> io) {
    using Square = float[kSquare][kSquare + 1];
    FUCINA_SHARED(Square, square);
    const int64_t group = blockIdx.y * io.rows * io.columns;
    const int64_t row = blockIdx.x / io.squares_a_row * kSquare;
    const int64_t column = blockIdx.x % io.squares_a_row * kSquare;
    const int lane = threadIdx.x % kSquare;
    for (int i = threadIdx.x / kSquare; i < kSquare; i += kRowsAtOnce)
        if (row + i < io.rows && column + lane < io.columns)
            square[i][lane] = io.from[group + (row + i) * io.columns + column + lane];
    __syncthreads();
    for (int i = threadIdx.x / kSquare; i < kSquare; i += kRowsAtOnce)
        if (column + i < io.columns && row + lane < io.rows)
            io.to[group + (column + i) * io.rows + row + lane] = from_float<T>(square[lane][i]);
}

template <class T>
void transpose(const Exec& exec, const Tensor& w, const PackedWeight& to) {
    const Transpose<T> io{.from = w.data<float>(),
                          .to = Matrix<T>(to.storage).data,
                          .rows = to.k,
                          .columns = to.n,
                          .squares_a_row = (to.n + kSquare - 1) / kSquare};
    dim3 grid = blocks_of(io.rows, kSquare);
    grid.x *= static_cast<unsigned>(io.squares_a_row);
    grid.y = static_cast<unsigned>(to.groups);
    launch(transpose_kernel<T>, {.grid = grid, .block = dim3(kThreads), .stream = exec.stream}, io);
}

}  // namespace

PackedWeight pack(const Exec& exec, const Tensor& w, PackKind kind, DType compute,
                  PackedWeight previous) {
    FUCINA_CHECK(w.dtype() == DType::f32 && (w.rank() == 2 || w.rank() == 3) && w.contiguous(),
                 "pack of ", w.describe());
    const int64_t n = w.dim(w.rank() - 2), k = w.dim(w.rank() - 1);
    const bool transposed = kind == PackKind::dgrad;
    PackedWeight packed = std::move(previous);
    packed.dtype = compute;
    packed.groups = w.rank() == 3 ? w.dim(0) : 1;
    packed.n = transposed ? k : n;
    packed.k = transposed ? n : k;
    packed.gate_up = kind == PackKind::gate_up;
    if (packed.fp8()) return pack_fp8(exec, w, kind, std::move(packed));
    KPieces(packed.cut, packed.k);  // checks
    if (!packed.defined() || packed.storage.dtype() != compute || packed.storage.size() != w.size())
        packed.storage = exec.empty({w.size()}, compute);
    if (w.size() == 0) return packed;
    if (!transposed)
        cast(exec, w.flat(), packed.storage);
    else
        compute == DType::bf16 ? transpose<__nv_bfloat16>(exec, w, packed)
                               : transpose<float>(exec, w, packed);
    return packed;
}

}  // namespace fucina::cuda
