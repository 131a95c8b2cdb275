// Products on tensor cores beside the CPU's: bf16 through the ops, FP8 as its kernel is called.
#include <gtest/gtest.h>

#include "kernels/cpu/gemm.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_fp8.h"
#include "kernels/cuda/gemm_wgmma.h"
#include "kernels/runtime.h"
#include "tests/reference/quantize.h"
#include "tests/simt/device.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

class GpuFastProducts : public testing::Test {
  protected:
    void SetUp() override { set_runtime(runtime().threads, Numerics::fast); }
    void TearDown() override { set_runtime(runtime().threads, Numerics::exact); }
};

// The largest difference over the root mean square.
double difference(const Tensor& found, const Tensor& expected) {
    double largest = 0, squares = 0;
    for (int64_t i = 0; i < expected.rows(); ++i)
        for (int64_t j = 0; j < expected.row_size(); ++j) {
            const double b = get(expected, i, j);
            largest = std::max(largest, std::abs(get(found, i, j) - b));
            squares += b * b;
        }
    return largest / std::sqrt(squares / static_cast<double>(expected.size()));
}

struct Shape {
    int64_t rows, n, k;
};
constexpr Shape kShapes[] = {{1, 4, 8}, {130, 136, 200}, {640, 1024, 7168}, {129, 512, 64}};

TEST_F(GpuFastProducts, Linear) {
    for (const Shape& s : kShapes) {
        const Tensor x = random_tensor({s.rows, s.k}, DType::bf16, 1);
        const Tensor w = random_tensor({s.n, s.k}, DType::f32, 2);
        const Tensor expected = Tensor::empty({s.rows, s.n}, DType::f32);
        const RowGroups rows{.rows = s.rows};
        cpu::grouped_linear(x, rows, cpu::pack(w, PackKind::forward, DType::bf16, {}), expected);
        const Tensor y = device().empty({s.rows, s.n}, DType::f32);
        const PackedWeight packed =
            cuda::pack(device(), device().clone(w), PackKind::forward, DType::bf16, {});
        EXPECT_TRUE(cuda::wgmma_product(
            device(), {.x = device().clone(x), .rows = rows, .w = packed, .y = y}));
        EXPECT_LE(difference(on_host(device(), y), expected), 1e-4)
            << s.rows << " x " << s.n << " x " << s.k;
    }
}

TEST_F(GpuFastProducts, WeightGradient) {
    for (const Shape& s : {Shape{64, 128, 128}, {700, 264, 520}, {1, 8, 8}}) {
        const Tensor dy = random_tensor({s.rows, s.n}, DType::bf16, 3);
        const Tensor x = random_tensor({s.rows, s.k}, DType::bf16, 4);
        const Tensor dw = device().empty({s.n, s.k}, DType::f32);
        EXPECT_TRUE(cuda::wgmma_wgrad(
            device(), {.in = {.dy = device().clone(dy), .x = device().clone(x)}, .dw = dw}));
        const Tensor expected = Tensor::zeros({s.n, s.k}, DType::f32);
        for (int64_t t = 0; t < s.rows; ++t)
            for (int64_t i = 0; i < s.n; ++i)
                for (int64_t j = 0; j < s.k; ++j)
                    expected.row<float>(i)[j] += get(dy, t, i) * get(x, t, j);
        EXPECT_LE(difference(on_host(device(), dw), expected), 1e-4)
            << s.rows << " x " << s.n << " x " << s.k;
    }
}

QuantizedRows on_gpu(const QuantizedRows& x) {
    return {device().clone(x.values), device().clone(x.scales)};
}

// Whole numbers up to 2: every product and every sum is exact.
TEST_F(GpuFastProducts, WholeNumbersInFp8) {
    constexpr int64_t kRows = 200, kN = 136, kK = 272, kBlocks = 3, kTiles = 2;
    const auto whole = [](int64_t rows, int64_t columns, uint64_t seed) {
        Tensor x = Tensor::empty({rows, columns}, DType::bf16);
        Random random(seed);
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j)
                set(x, i, j, static_cast<float>(random.below(5) - 2));
        return x;
    };
    constexpr uint8_t kCodes[] = {0xc0, 0xb8, 0x00, 0x38, 0x40};  // -2 to 2 in E4M3
    const auto codes = [&](const Tensor& x) {
        Tensor values = Tensor::empty({x.rows(), x.row_size()}, DType::f8_e4m3);
        for (int64_t i = 0; i < x.rows(); ++i)
            for (int64_t j = 0; j < x.row_size(); ++j)
                values.raw()[i * x.row_size() + j] =
                    std::byte{kCodes[static_cast<int>(get(x, i, j)) + 2]};
        return values;
    };
    const auto ones = [](int64_t rows, int64_t columns) {
        Tensor x = Tensor::empty({rows, columns}, DType::f32);
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t j = 0; j < columns; ++j) set(x, i, j, 1.0f);
        return x;
    };
    const Tensor x = whole(kRows, kK, 5), w = whole(2 * kN, kK, 6);
    const Tensor offsets = tensor_of(device(), std::vector<int64_t>{0, 70, kRows});
    const Tensor y = device().empty({kRows, kN}, DType::bf16);
    cuda::grouped_gemm_fp8(device(), {.x = on_gpu({codes(x), ones(kBlocks, kRows)}),
                                      .w = device().clone(codes(w)),
                                      .w_scales = device().clone(ones(2 * kTiles, kBlocks)),
                                      .offsets = offsets.data<int64_t>(),
                                      .experts = 2,
                                      .y = y});
    const Tensor found = on_host(device(), y);
    for (int64_t i = 0; i < kRows; ++i)
        for (int64_t j = 0; j < kN; ++j) {
            float sum = 0;
            for (int64_t k = 0; k < kK; ++k) sum += get(x, i, k) * get(w, j + (i < 70 ? 0 : kN), k);
            ASSERT_EQ(get(found, i, j), to_float(to_bfloat16(sum))) << i << ", " << j;
        }
}

}  // namespace
}  // namespace fucina::test
