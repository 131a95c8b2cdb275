// FP8 products against fp64 of the operands that they really multiply, what promotion and blocks of
// one token buy, and what becomes of NaN. Bits are tests/kernels/gemm_cases.cpp's business.
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <limits>
#include <vector>

#include "kernels/block_fp8.h"
#include "kernels/cpu/fp8_kernels.h"
#include "kernels/gemm.h"
#include "kernels/runtime.h"
#include "tests/reference/quantize.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

using test::get;
using test::random_tensor;

constexpr int64_t kBlock = kQuantizeBlock;

int64_t blocks_of(int64_t n) {
    return (n + kBlock - 1) / kBlock;
}

double value(uint8_t code) {
    return double{reference::from_e4m3(code)};
}

// x in blocks of 1 x 128, and what they stand for.
std::vector<double> dequantized_rows(const Tensor& x) {
    const int64_t rows = x.rows(), columns = x.row_size();
    const QuantizedRows out{Tensor::empty({rows, columns}, DType::f8_e4m3),
                            Tensor::empty({blocks_of(columns), rows}, DType::f32)};
    reference::quantize({.x = x, .rows = out});
    std::vector<double> values;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            values.push_back(value(static_cast<uint8_t>(out.values.raw()[i * columns + j])) *
                             out.scales.row<float>(j / kBlock)[i]);
    return values;
}

// Of [n, k] in blocks of 128 x 128.
std::vector<double> dequantized_blocks(const Tensor& w) {
    const int64_t rows = w.rows(), columns = w.row_size();
    std::vector<double> values(static_cast<size_t>(rows * columns));
    for (int64_t row = 0; row < rows; row += kBlock) {
        const int64_t count = std::min(kBlock, rows - row);
        const std::span<const float> stripe(w.data<float>() + row * columns,
                                            static_cast<size_t>(count * columns));
        std::vector<float> scales(static_cast<size_t>(blocks_of(columns)));
        std::vector<uint8_t> codes(stripe.size());
        fp8_scales(stripe, columns, ScaleFormat::fp32, scales.data());
        for (int64_t i = 0; i < count * columns; ++i) {
            const float scale = scales[static_cast<size_t>(i % columns / kBlock)];
            values[static_cast<size_t>(row * columns + i)] =
                value(reference::to_e4m3(stripe[static_cast<size_t>(i)] * (1.0f / scale))) * scale;
        }
    }
    return values;
}

// Norm of y - x wᵀ over that of x wᵀ.
double relative_error(const Tensor& y, const std::vector<double>& x, const std::vector<double>& w,
                      int64_t depth) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < y.rows(); ++i)
        for (int64_t j = 0; j < y.row_size(); ++j) {
            double sum = 0;
            for (int64_t k = 0; k < depth; ++k)
                sum +=
                    x[static_cast<size_t>(i * depth + k)] * w[static_cast<size_t>(j * depth + k)];
            error += std::pow(double{get(y, i, j)} - sum, 2);
            norm += sum * sum;
        }
    return std::sqrt(error / norm);
}

class Fp8 : public testing::Test {
  protected:
    void TearDown() override { set_runtime(0, Numerics::exact); }
};

// Each of 33 terms is cut by less than 2^-13 of the largest exponent's, all toward zero, which
// cancels among signs; the sums of fast numerics are fp32.
TEST_F(Fp8, LinearIsTheProductOfWhatWasQuantized) {
    const int64_t rows = 40, n = 72, depth = 4096;
    const Tensor x = random_tensor({rows, depth}, DType::bf16, 1);
    const Tensor w = random_tensor({n, depth}, DType::f32, 2, 0.05f);
    const std::vector<double> in = dequantized_rows(x), weight = dequantized_blocks(w);
    for (const auto& [numerics, bound] :
         {std::pair{Numerics::exact, 1e-3}, {Numerics::fast, 1e-6}}) {
        set_runtime(2, numerics);
        const Tensor y = Tensor::empty({rows, n}, DType::f32);
        ops::linear(kHost, x, ops::pack(kHost, w, PackKind::forward, DType::f8_e4m3), y);
        EXPECT_LE(relative_error(y, in, weight, depth), bound) << static_cast<int>(numerics);
    }
}

// What arXiv 2412.19437 §3.3.2 promotes for: sums of K = 4096 in the tensor cores' 14 bits.
TEST_F(Fp8, SumsWithoutPromotionLoseDigits) {
    constexpr int kRows = 32;
    constexpr int64_t kDepth = 4096;
    const Tensor x = random_tensor({kRows, kDepth}, DType::bf16, 3);
    const Tensor w = random_tensor({kRows, kDepth}, DType::bf16, 4);
    std::vector<double> values[2];
    std::vector<const void*> rows[2];
    for (const int side : {0, 1}) {
        const Tensor& t = side == 0 ? x : w;
        for (int64_t i = 0; i < kRows; ++i) {
            rows[side].push_back(t.row<bfloat16>(i));
            for (int64_t j = 0; j < kDepth; ++j) {
                const double number = value(reference::to_e4m3(8 * std::fabs(get(t, i, j))));
                test::set(t, i, j, static_cast<float>(number));
                values[side].push_back(number);
            }
        }
    }
    const cpu::GemmKernel& kernel = cpu::scalar::kTensorCoreKernel;
    std::vector<uint16_t> a(kRows * kDepth), b(a.size());
    kernel.pack_a(rows[0].data(), kRows, kDepth, a.data());
    cpu::scalar::kBf16Tools.pack_b_operand_rows(rows[1].data(), kDepth, b.data());
    const auto error = [&](int64_t products) {  // between promotions
        const Tensor sum = Tensor::zeros({kRows, kRows}, DType::f32);
        const Tensor part = Tensor::empty({kRows, kRows}, DType::f32);
        for (int64_t k = 0; k < kDepth; k += products) {
            kernel.multiply(a.data() + k * kRows, b.data() + k * kRows, products, kRows, false,
                            part.data<float>());
            for (int64_t i = 0; i < sum.size(); ++i) sum.data<float>()[i] += part.data<float>()[i];
        }
        return relative_error(sum, values[0], values[1], kDepth);
    };
    const double with = error(kBlock), without = error(kDepth);
    std::cout << "K = 4096: " << with << " with promotion, " << without << " without\n";
    EXPECT_GT(without, 8 * with);
    EXPECT_GT(without, 2e-3);
}

// Gradients of tokens differ by orders of magnitude; a block of 128 x 128 of them makes zeros of
// the small ones, with which a 16B model diverged (arXiv 2412.19437, appendix B.2).
TEST_F(Fp8, OneScaleForManyTokensLosesSmallGradients) {
    const int64_t rows = 128, columns = 256;
    const Tensor dy = random_tensor({rows, columns}, DType::bf16, 5);
    const Tensor wide = Tensor::empty({rows, columns}, DType::f32);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            test::set(dy, i, j, std::ldexp(get(dy, i, j), -static_cast<int>(i % 22)));
            test::set(wide, i, j, get(dy, i, j));
        }
    const auto worst_row = [&](const std::vector<double>& got) {
        double worst = 0;
        for (int64_t i = 0; i < rows; ++i) {
            double error = 0, norm = 0;
            for (int64_t j = 0; j < columns; ++j) {
                const double want = get(dy, i, j);
                error += std::pow(got[static_cast<size_t>(i * columns + j)] - want, 2);
                norm += want * want;
            }
            worst = std::max(worst, std::sqrt(error / norm));
        }
        return worst;
    };
    const double token = worst_row(dequantized_rows(dy)),
                 block = worst_row(dequantized_blocks(wide));
    std::cout << "worst token: " << token << " with 1 x 128, " << block << " with 128 x 128\n";
    EXPECT_LT(token, 0x1p-4);
    EXPECT_GT(block, 0.5);
}

// A mean's gradients are 1 / tokens small.
TEST_F(Fp8, SmallGradientsKeepTheirDigits) {
    Tensor dy = random_tensor({4, 256}, DType::bf16, 6, 1e-10f);
    const std::vector<double> got = dequantized_rows(dy);
    double error = 0, norm = 0;
    for (int64_t i = 0; i < 4; ++i)
        for (int64_t j = 0; j < 256; ++j) {
            error += std::pow(got[static_cast<size_t>(i * 256 + j)] - get(dy, i, j), 2);
            norm += std::pow(double{get(dy, i, j)}, 2);
        }
    EXPECT_LT(std::sqrt(error / norm), 0x1p-4);
}

TEST_F(Fp8, WhatIsNotFiniteReachesItsRowAndNoOther) {
    const Tensor w = random_tensor({40, 200}, DType::f32, 7);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        for (const Numerics numerics : {Numerics::exact, Numerics::fast}) {
            set_runtime(1, numerics);
            const Tensor x = random_tensor({9, 200}, DType::bf16, 8);
            test::set(x, 3, 150, bad);
            const Tensor y = Tensor::empty({9, 40}, DType::bf16);
            ops::linear(kHost, x, ops::pack(kHost, w, PackKind::forward, DType::f8_e4m3), y);
            for (int64_t i = 0; i < 9; ++i)
                for (int64_t j = 0; j < 40; ++j)
                    EXPECT_EQ(std::isnan(get(y, i, j)), i == 3) << i << ", " << j;
            const Tensor dw = Tensor::empty({200, 40}, DType::f32);
            ops::linear_wgrad(kHost, x, y.slice(0, 9), make_leaf_tree({0, 9}), dw, true);
            EXPECT_TRUE(std::isnan(get(dw, 150, 0)));
        }
}

}  // namespace
}  // namespace fucina
