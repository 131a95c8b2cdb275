// RoPE: one thread a pair.
#include "kernels/cuda/rope.h"

#include "kernels/cuda/device/block.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Rotation {
    Matrix<T> x;
    Matrix<const float> cos, sin;
    const int32_t* positions = nullptr;
    int64_t pairs = 0;  // of all tokens
    int64_t heads = 0, head_dim = 0, half = 0;
    bool interleaved = false, inverse = false;
};

template <class T>
__global__ void __launch_bounds__(kThreads) rope_kernel(const Rotation<T> io) {
    const int64_t pair = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (pair >= io.pairs) return;
    const int64_t i = pair % io.half, head = pair / io.half % io.heads;
    const int64_t token = pair / io.half / io.heads;
    T* const rotated = io.x.row(token) + (head + 1) * io.head_dim - 2 * io.half;
    T& first = rotated[io.interleaved ? 2 * i : i];
    T& second = rotated[io.interleaved ? 2 * i + 1 : i + io.half];
    const int64_t position = io.positions[token];
    const float cos = io.cos.row(position)[i], table_sin = io.sin.row(position)[i];
    const float sin = io.inverse ? -table_sin : table_sin;
    const float a = to_float(first), b = to_float(second);
    first = from_float<T>(a * cos - b * sin);
    second = from_float<T>(a * sin + b * cos);
}

template <class T>
void run(const Tensor& x, int64_t heads, const Tensor& positions, const RopeTable& table,
         bool inverse, Stream stream) {
    const Rotation<T> io{.x = x,
                         .cos = table.cos,
                         .sin = table.sin,
                         .positions = positions.data<int32_t>(),
                         .pairs = x.rows() * heads * table.cos.row_size(),
                         .heads = heads,
                         .head_dim = x.row_size() / heads,
                         .half = table.cos.row_size(),
                         .interleaved = table.layout == RopeLayout::interleaved,
                         .inverse = inverse};
    launch(rope_kernel<T>,
           {.grid = blocks_of(io.pairs, kThreads), .block = dim3(kThreads), .stream = stream}, io);
}

}  // namespace

void rope(const Exec& exec, const Tensor& x, int64_t heads, const Tensor& positions,
          const RopeTable& table, bool inverse) {
    FUCINA_CHECK(heads > 0 && x.row_size() % heads == 0 &&
                     2 * table.cos.row_size() <= x.row_size() / heads &&
                     positions.size() == x.rows() && positions.contiguous(),
                 "rope of ", heads, " heads, ", 2 * table.cos.row_size(), " rotated columns, on ",
                 x.describe());
    if (x.rows() == 0) return;
    x.dtype() == DType::bf16 ? run<__nv_bfloat16>(x, heads, positions, table, inverse, exec.stream)
                             : run<float>(x, heads, positions, table, inverse, exec.stream);
}

}  // namespace fucina::cuda
