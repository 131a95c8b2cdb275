// FP8 quantisation beyond its KernelCases: strides, infinities, refusals; and the reference's E4M3
// against the format's definition.
#include "kernels/cuda/quantize.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/reference/quantize.h"
#include "tests/simt/device.h"
#include "tests/simt/guarded.h"

namespace fucina {
namespace {

using test::Guarded;

int64_t blocks(int64_t columns) {
    return (columns + kQuantizeBlock - 1) / kQuantizeBlock;
}

struct Output {
    Guarded values, scales;
    Output(int64_t rows, int64_t columns)
        : values(rows, columns, DType::f8_e4m3), scales(blocks(columns), rows, DType::f32) {}
    QuantizedRows tensors() const { return {values, scales}; }
    void expect_equal(const Output& want) const {
        EXPECT_TRUE(test::bit_equal(values, want.values));
        EXPECT_TRUE(test::bit_equal(scales, want.scales));
        EXPECT_TRUE(values.intact() && scales.intact() && want.values.intact());
    }
};

void check(const Tensor& x, ScaleFormat format, bool with_columns) {
    SCOPED_TRACE(concat(x.describe(), " ", static_cast<int>(format), " ", with_columns));
    const int64_t padded = blocks(x.rows()) * kQuantizeBlock;
    const Output rows(x.rows(), x.row_size()), want_rows(x.rows(), x.row_size());
    const Output columns(x.row_size(), padded), want_columns(x.row_size(), padded);
    cuda::quantize(kHost, {.x = x,
                           .rows = rows.tensors(),
                           .columns = with_columns ? columns.tensors() : QuantizedRows{},
                           .format = format});
    reference::quantize({.x = x,
                         .rows = want_rows.tensors(),
                         .columns = with_columns ? want_columns.tensors() : QuantizedRows{},
                         .format = format});
    rows.expect_equal(want_rows);
    columns.expect_equal(want_columns);
}

TEST(CudaQuantize, StridedTensorsWithColumnsAndWithout) {
    const Tensor x = test::random_tensor({130, 512}, DType::bf16, 1).columns(128, 400);
    for (const bool with_columns : {false, true}) check(x, ScaleFormat::fp32, with_columns);
}

TEST(CudaQuantize, NotFiniteStaysNotFinite) {
    const Tensor x = test::random_tensor({3, 256}, DType::bf16, 2);
    test::set(x, 1, 7, NAN);
    test::set(x, 2, 200, -INFINITY);
    check(x, ScaleFormat::fp32, true);
    check(x, ScaleFormat::power_of_two, true);
    const Output rows(3, 256);
    cuda::quantize(kHost, {.x = x, .rows = rows.tensors()});
    const auto* values = reinterpret_cast<const uint8_t*>(rows.values.view().raw());
    const int64_t stride = rows.values.view().row_stride();
    EXPECT_TRUE(std::isnan(reference::from_e4m3(values[1 * stride + 7])));
    EXPECT_TRUE(std::isnan(reference::from_e4m3(values[2 * stride + 200])));
    EXPECT_EQ(test::get(rows.scales, 1, 2), INFINITY);
}

TEST(CudaQuantize, ScalesReachTheWholeRange) {
    using reference::quantize_scale;
    EXPECT_EQ(quantize_scale(448.0f, ScaleFormat::fp32), 1.0f);
    EXPECT_EQ(quantize_scale(448.0f, ScaleFormat::power_of_two), 1.0f);
    EXPECT_EQ(quantize_scale(449.0f, ScaleFormat::power_of_two), 2.0f);
    EXPECT_EQ(quantize_scale(300.0f, ScaleFormat::power_of_two), 1.0f);
    EXPECT_EQ(quantize_scale(1e-4f, ScaleFormat::power_of_two), 0x1p-22f);
}

TEST(CudaQuantize, RefusesWhatTheKernelCannotRead) {
    const Output rows(4, 24), odd(4, 32);
    const Tensor x = Tensor::zeros({4, 24}, DType::bf16);
    EXPECT_THROW(cuda::quantize(kHost, {.x = x, .rows = rows.tensors()}), Error);
    EXPECT_THROW(cuda::quantize(kHost, {.x = x.columns(1, 17), .rows = rows.tensors()}), Error);
    EXPECT_THROW(
        cuda::quantize(kHost, {.x = Tensor::zeros({4, 32}, DType::bf16), .rows = rows.tensors()}),
        Error);
}

// OCP 8-bit Floating Point Specification 1.0, table 1: value = (-1)^s 2^(e-7) (1 + m/8), or
// (-1)^s 2^-6 m/8 for e = 0.
TEST(E4m3, EveryCodeReadsAsDefinedAndWritesBack) {
    for (int bits = 0; bits < 256; ++bits) {
        const int e = bits >> 3 & 15, m = bits & 7;
        const float read = reference::from_e4m3(static_cast<uint8_t>(bits));
        if ((bits & 127) == 127) {
            EXPECT_TRUE(std::isnan(read));
            continue;
        }
        const double magnitude = e == 0 ? std::ldexp(m / 8.0, -6) : std::ldexp(1 + m / 8.0, e - 7);
        EXPECT_EQ(double{read}, bits < 128 ? magnitude : -magnitude);
        EXPECT_EQ(reference::to_e4m3(read), bits);
    }
    EXPECT_EQ(reference::from_e4m3(0x7e), 448.0f);
}

TEST(E4m3, RoundsToNearestEvenAndSaturates) {
    for (int bits = 0; bits + 1 < 0x7f; ++bits) {
        const float low = reference::from_e4m3(static_cast<uint8_t>(bits));
        const float high = reference::from_e4m3(static_cast<uint8_t>(bits + 1));
        const float middle = (low + high) / 2;
        EXPECT_EQ(reference::to_e4m3(middle), bits % 2 == 0 ? bits : bits + 1);
        EXPECT_EQ(reference::to_e4m3(std::nextafter(middle, low)), bits);
        EXPECT_EQ(reference::to_e4m3(std::nextafter(middle, high)), bits + 1);
        EXPECT_EQ(reference::to_e4m3(-middle), 128 + (bits % 2 == 0 ? bits : bits + 1));
    }
    for (const float large : {448.0f, 463.9f, 464.1f, 1e30f, INFINITY}) {
        EXPECT_EQ(reference::to_e4m3(large), 0x7e);
        EXPECT_EQ(reference::to_e4m3(-large), 0xfe);
    }
}

}  // namespace
}  // namespace fucina
