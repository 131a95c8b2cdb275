// Rows apart: every kernel gives the same bits on strided tensors as on contiguous ones, and writes
// nothing but its outputs. And what its wrapper refuses.
#include <gtest/gtest.h>

#include "kernels/cuda/norm.h"
#include "kernels/cuda/swiglu.h"
#include "tests/simt/device.h"
#include "tests/simt/guarded.h"

namespace fucina {
namespace {

using test::Guarded;

struct Shape {
    int64_t rows, width;
};
// Widths that are read in packs of 16 bytes, and one that is not.
constexpr Shape kShapes[] = {{3, 512}, {5, 33}};
constexpr DType kTypes[] = {DType::bf16, DType::f32};
constexpr float kEps = 1e-6f;

TEST(CudaStrides, AddRmsNorm) {
    for (const Shape shape : kShapes)
        for (const DType type : kTypes) {
            const auto random = [&](uint64_t seed) {
                return test::random_tensor({shape.rows, shape.width}, type, seed);
            };
            const Tensor x = random(1), residual = random(2);
            const Tensor w = test::random_tensor({shape.width}, DType::f32, 3);
            const Guarded y(shape.rows, shape.width, type), sum(shape.rows, shape.width, type);
            const Guarded rstd(1, shape.rows, DType::f32);
            ops::RmsNorm io{.x = x,
                            .residual = residual,
                            .sum = x.clone(),
                            .w = w,
                            .y = x.clone(),
                            .rstd = Tensor::empty({shape.rows}, DType::f32),
                            .eps = kEps};
            cuda::rmsnorm(kHost, io);
            cuda::rmsnorm(kHost, {.x = test::with_strided_rows(x),
                                  .residual = test::with_strided_rows(residual),
                                  .sum = sum,
                                  .w = w,
                                  .y = y,
                                  .rstd = rstd.view().view({shape.rows}),
                                  .eps = kEps});
            EXPECT_TRUE(test::bit_equal(sum, io.sum) && test::bit_equal(y, io.y));
            EXPECT_TRUE(test::bit_equal(rstd.view().view({shape.rows}), io.rstd));
            EXPECT_TRUE(y.intact() && sum.intact() && rstd.intact());
        }
}

TEST(CudaStrides, RmsNormBackward) {
    for (const Shape shape : kShapes)
        for (const DType type : kTypes) {
            const auto random = [&](uint64_t seed) {
                return test::random_tensor({shape.rows, shape.width}, type, seed);
            };
            ops::RmsNormBackward io{.dy = random(4),
                                    .x = random(5),
                                    .w = test::random_tensor({shape.width}, DType::f32, 6),
                                    .rstd = test::random_tensor({shape.rows}, DType::f32, 7),
                                    .residual_grad = random(8),
                                    .dx = random(9),
                                    .dw = Tensor::empty({shape.width}, DType::f32),
                                    .tree = make_leaf_tree({0, 1, 1, 2, shape.rows})};
            cuda::rmsnorm_backward(kHost, io);
            const Tensor dx = io.dx, dw = io.dw;
            const Guarded dx_apart(shape.rows, shape.width, type);
            const Guarded dw_apart(1, shape.width, DType::f32);
            io.dy = test::with_strided_rows(io.dy);
            io.x = test::with_strided_rows(io.x);
            io.residual_grad = test::with_strided_rows(io.residual_grad);
            io.dx = dx_apart;
            io.dw = dw_apart.view().view({shape.width});
            cuda::rmsnorm_backward(kHost, io);
            EXPECT_TRUE(test::bit_equal(io.dx, dx) && test::bit_equal(io.dw, dw));
            EXPECT_TRUE(dx_apart.intact() && dw_apart.intact());
        }
}

TEST(CudaStrides, Swiglu) {
    for (const Shape shape : kShapes)
        for (const DType type : kTypes) {
            const Tensor gate_up = test::random_tensor({shape.rows, 2 * shape.width}, type, 1);
            const Tensor h = Tensor::empty({shape.rows, shape.width}, type);
            const Guarded apart(shape.rows, shape.width, type);
            cuda::swiglu(kHost, gate_up, h);
            cuda::swiglu(kHost, test::with_strided_rows(gate_up), apart);
            EXPECT_TRUE(test::bit_equal(apart, h) && apart.intact());
        }
}

// Without the optional outputs too.
TEST(CudaStrides, SwigluBackward) {
    for (const Shape shape : kShapes)
        for (const DType type : kTypes) {
            cuda::SwigluBackward io{
                .dh = test::random_tensor({shape.rows, shape.width}, type, 1),
                .gate_up = test::random_tensor({shape.rows, 2 * shape.width}, type, 2),
                .d_gate_up = Tensor::empty({shape.rows, 2 * shape.width}, type)};
            cuda::swiglu_backward(kHost, io);
            const Tensor want = io.d_gate_up;
            const Tensor ones = Tensor::empty({shape.rows}, DType::f32);
            std::fill_n(ones.data<float>(), shape.rows, 1.0f);
            const Guarded d_gate_up(shape.rows, 2 * shape.width, type);
            const Guarded h(shape.rows, shape.width, type), dot(1, shape.rows, DType::f32);
            io.dh = test::with_strided_rows(io.dh);
            io.gate_up = test::with_strided_rows(io.gate_up);
            io.row_weight = ones.data<float>();
            io.d_gate_up = d_gate_up;
            io.weighted_h = h;
            io.d_row_weight = dot.view().data<float>();
            cuda::swiglu_backward(kHost, io);
            EXPECT_TRUE(test::bit_equal(d_gate_up, want));
            EXPECT_TRUE(d_gate_up.intact() && h.intact() && dot.intact());
        }
}

TEST(CudaSwiglu, LargeGatesNeitherOverflowNorVanish) {
    const Tensor gate_up = Tensor::empty({1, 4}, DType::f32);
    const float values[] = {-200.0f, 200.0f, 2.0f, 3.0f};
    std::copy(values, values + 4, gate_up.data<float>());
    const Tensor h = Tensor::empty({1, 2}, DType::f32);
    cuda::swiglu(kHost, gate_up, h);
    EXPECT_EQ(h.data<float>()[0], 0.0f);
    EXPECT_EQ(h.data<float>()[1], 600.0f);
}

TEST(CudaWrappers, RefuseShapesThatDoNotFit) {
    const Tensor x = Tensor::zeros({2, 8}, DType::bf16), w = Tensor::zeros({8}, DType::f32);
    const Tensor floats = Tensor::zeros({2, 8}, DType::f32),
                 rows = Tensor::zeros({3, 8}, DType::bf16);
    EXPECT_THROW(ops::rmsnorm(test::device(), x, Tensor::zeros({7}, DType::f32), kEps, x, {}),
                 Error);
    EXPECT_THROW(ops::rmsnorm(test::device(), x, w, kEps, floats, {}), Error);
    EXPECT_THROW(ops::rmsnorm(test::device(), x, w, kEps, rows, {}), Error);
    EXPECT_THROW(cuda::swiglu(kHost, x, x), Error);
    EXPECT_THROW(cuda::swiglu(kHost, x, Tensor::zeros({2, 4}, DType::f32)), Error);
}

}  // namespace
}  // namespace fucina
