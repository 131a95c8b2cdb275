// SwiGLU's kernels against plain loops, on the SIMT model.
#include "kernels/cuda/swiglu.h"

#include <gtest/gtest.h>

#include "tests/simt/every_order.h"
#include "tests/simt/guarded.h"

namespace fucina {
namespace {

using test::Guarded;

struct Shape {
    int64_t rows, width;
};
// DeepSeek-V3's expert and dense widths, one token, odd sizes, nothing.
constexpr Shape kShapes[] = {{3, 2048}, {2, 18432}, {1, 384}, {7, 100}, {5, 33}, {2, 1}, {0, 64}};

// fp32 against fp64: expf is off by two ulps, the chain after it rounds some eight times; bf16 adds
// a flip of its own rounding, half an ulp of at most 2^-8 beside the half that is due.
double tolerance(DType type) {
    return type == DType::bf16 ? 0x1p-7 : 1e-6;
}

class CudaSwiglu : public testing::TestWithParam<simt::Options> {
  protected:
    simt::OrderScope scope_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Simt, CudaSwiglu, testing::ValuesIn(simt::every_order()),
                         simt::order_name);

double sigmoid(double x) {
    return 1 / (1 + std::exp(-x));
}

void check_forward(Shape shape, DType type) {
    SCOPED_TRACE(concat(shape.rows, " x ", shape.width, " ", name_of(type)));
    const Tensor gate_up =
        test::with_strided_rows(test::random_tensor({shape.rows, 2 * shape.width}, type, 1, 4.0f));
    const Guarded h(shape.rows, shape.width, type);
    cuda::swiglu(gate_up, h, nullptr);
    const Tensor want = Tensor::empty({shape.rows, shape.width}, type);
    for (int64_t i = 0; i < shape.rows; ++i)
        for (int64_t j = 0; j < shape.width; ++j) {
            const double g = double{test::get(gate_up, i, j)};
            const double u = double{test::get(gate_up, i, j + shape.width)};
            test::set(want, i, j, static_cast<float>(g * sigmoid(g) * u));
        }
    EXPECT_LE(test::relative_error(h, want), tolerance(type));
    EXPECT_TRUE(h.intact());
}

TEST_P(CudaSwiglu, ForwardAgreesWithPlainLoops) {
    for (const Shape shape : kShapes)
        for (const DType type : {DType::bf16, DType::f32}) check_forward(shape, type);
}

void check_backward(Shape shape, DType type, bool weighted) {
    SCOPED_TRACE(concat(shape.rows, " x ", shape.width, " ", name_of(type), " ", weighted));
    const int64_t width = shape.width;
    const Tensor gate_up = test::random_tensor({shape.rows, 2 * width}, type, 1, 2.0f);
    const Tensor dh = test::with_strided_rows(test::random_tensor({shape.rows, width}, type, 2));
    const Tensor weights = test::random_tensor({shape.rows}, DType::f32, 3);
    const Guarded d_gate_up(shape.rows, 2 * width, type), weighted_h(shape.rows, width, type);
    const Guarded d_weight(1, shape.rows, DType::f32);
    cuda::swiglu_backward({.dh = dh,
                           .gate_up = gate_up,
                           .row_weight = weighted ? weights.data<float>() : nullptr,
                           .d_gate_up = d_gate_up,
                           .weighted_h = weighted ? weighted_h.view() : Tensor{},
                           .d_row_weight = weighted ? d_weight.view().data<float>() : nullptr},
                          nullptr);
    const Tensor want = Tensor::empty({shape.rows, 2 * width}, type);
    const Tensor want_h = Tensor::empty({shape.rows, width}, type);
    const Tensor want_weight = Tensor::zeros({1, shape.rows}, DType::f32);
    for (int64_t i = 0; i < shape.rows; ++i) {
        const double weight = weighted ? double{test::get(weights, i, 0)} : 1.0;
        double dot = 0;
        for (int64_t j = 0; j < width; ++j) {
            const double g = double{test::get(gate_up, i, j)};
            const double u = double{test::get(gate_up, i, j + width)};
            const double s = sigmoid(g), d = double{test::get(dh, i, j)};
            test::set(want_h, i, j, static_cast<float>(g * s * u));  // h, rounded as forward did
            const double h = double{test::get(want_h, i, j)};
            dot += d * h;
            test::set(want_h, i, j, static_cast<float>(weight * h));
            test::set(want, i, j, static_cast<float>(weight * d * u * s * (1 + g * (1 - s))));
            test::set(want, i, j + width, static_cast<float>(weight * d * g * s));
        }
        test::set(want_weight, 0, i, static_cast<float>(dot));
    }
    EXPECT_LE(test::relative_error(d_gate_up, want), tolerance(type));
    if (weighted) {
        EXPECT_LE(test::relative_error(weighted_h, want_h), tolerance(type));
        // A sum of some width products, in fp32; h's bf16 may have been rounded the other way.
        const double of_dot = type == DType::bf16 ? 0x1p-8 : 5e-6;
        EXPECT_LE(test::relative_error(d_weight, want_weight), of_dot);
    }
    EXPECT_TRUE(d_gate_up.intact() && weighted_h.intact() && d_weight.intact());
}

TEST_P(CudaSwiglu, BackwardAgreesWithPlainLoops) {
    for (const Shape shape : kShapes)
        for (const DType type : {DType::bf16, DType::f32})
            for (const bool weighted : {false, true}) check_backward(shape, type, weighted);
}

TEST_P(CudaSwiglu, LargeGatesNeitherOverflowNorVanish) {
    const Tensor gate_up = Tensor::empty({1, 4}, DType::f32);
    const float values[] = {-200.0f, 200.0f, 2.0f, 3.0f};
    std::copy(values, values + 4, gate_up.data<float>());
    const Tensor h = Tensor::empty({1, 2}, DType::f32);
    cuda::swiglu(gate_up, h, nullptr);
    EXPECT_EQ(h.data<float>()[0], 0.0f);
    EXPECT_EQ(h.data<float>()[1], 600.0f);
}

}  // namespace
}  // namespace fucina
