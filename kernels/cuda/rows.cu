// Conversions and sums of rows: one thread a pack of elements.
#include "kernels/cuda/rows.h"

#include "kernels/cuda/device/float_rows.h"
#include "kernels/cuda/device/launch.h"

namespace fucina::cuda {
namespace {

constexpr int kThreads = 256;

struct Rows {
    FloatRows from, to;
    const int32_t* index = nullptr;  // of from's rows, or null
    bool add = false;                // to what is there
    int64_t width = 0;
    int64_t blocks_a_row = 0;
};

template <int kPack>
__global__ void __launch_bounds__(kThreads) rows_kernel(const Rows io) {
    const int64_t row = blockIdx.x / io.blocks_a_row;
    const int64_t c = (blockIdx.x % io.blocks_a_row * kThreads + threadIdx.x) * kPack;
    if (c >= io.width) return;
    Pack<float, kPack> values = io.from.load<kPack>(io.index != nullptr ? io.index[row] : row, c);
    if (io.add) {
        const Pack<float, kPack> other = io.to.load<kPack>(row, c);
        for (int i = 0; i < kPack; ++i) values.at[i] = other.at[i] + values.at[i];
    }
    io.to.store(row, c, values);
}

void run(Rows io, int64_t rows, Stream stream) {
    if (rows == 0 || io.width == 0) return;
    const bool packed = packs<kFloatPack>(io.width, io.from, io.to);
    const int64_t elements = kThreads * (packed ? kFloatPack : 1);
    io.blocks_a_row = (io.width + elements - 1) / elements;
    launch(packed ? rows_kernel<kFloatPack> : rows_kernel<1>,
           {.grid = dim3(static_cast<unsigned>(rows * io.blocks_a_row)),
            .block = dim3(kThreads),
            .stream = stream},
           io);
}

// What is contiguous is one long row.
void run_all(const Tensor& x, const Tensor& out, bool add, Stream stream) {
    FUCINA_CHECK(x.rows() == out.rows() && x.row_size() == out.row_size(), x.describe(), " to ",
                 out.describe());
    const bool one_row = x.contiguous() && out.contiguous();
    const int64_t rows = one_row ? 1 : x.rows();
    const auto shaped = [&](const Tensor& t) { return one_row ? t.view({1, t.size()}) : t; };
    run({.from = shaped(x),
         .to = shaped(out),
         .add = add,
         .width = x.size() / std::max(rows, int64_t{1})},
        rows, stream);
}

}  // namespace

void cast(const Exec& exec, const Tensor& x, const Tensor& out) {
    run_all(x, out, false, exec.stream);
}

void add_in_place(const Exec& exec, const Tensor& y, const Tensor& x) {
    FUCINA_CHECK(y.dtype() == DType::f32, "add to a ", y.describe());
    run_all(x, y, true, exec.stream);
}

void embedding(const Exec& exec, const Tensor& ids, const Tensor& table, const Tensor& out) {
    FUCINA_CHECK(table.row_size() == out.row_size() && ids.size() == out.rows() && ids.contiguous(),
                 "embedding ", table.describe(), " of ", ids.describe(), " to ", out.describe());
    run({.from = table, .to = out, .index = ids.data<int32_t>(), .width = out.row_size()},
        out.rows(), exec.stream);
}

}  // namespace fucina::cuda
