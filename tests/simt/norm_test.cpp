// RMSNorm's kernels against the reference, on the SIMT model.
#include "kernels/cuda/norm.h"

#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "tests/simt/every_order.h"
#include "tests/simt/guarded.h"

namespace fucina {
namespace {

using test::Guarded;

struct Shape {
    int64_t rows, width;
};
// DeepSeek-V3's hidden size and its two latent sizes, one token, odd sizes, nothing.
constexpr Shape kShapes[] = {{3, 7168}, {5, 1536}, {9, 512}, {1, 512},
                             {7, 100},  {4, 33},   {2, 1},   {0, 512}};
constexpr float kEps = 1e-6f;

// fp32 row sums, rounded some D/256 + 13 times against the reference's fp64: 3e-6 of the largest.
// bf16 adds one rounding's flip, an ulp of at most 2^-7, to each of the two roundings of y.
double tolerance(DType type) {
    return type == DType::bf16 ? 0x1p-7 : 3e-6;
}

class CudaNorm : public testing::TestWithParam<simt::Options> {
  protected:
    simt::OrderScope scope_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Simt, CudaNorm, testing::ValuesIn(simt::every_order()), simt::order_name);

void check_forward(Shape shape, DType type, bool with_residual) {
    SCOPED_TRACE(concat(shape.rows, " x ", shape.width, " ", name_of(type), " ", with_residual));
    const Tensor x =
        test::with_strided_rows(test::random_tensor({shape.rows, shape.width}, type, 1, 3.0f));
    const Tensor residual = test::random_tensor({shape.rows, shape.width}, type, 2);
    const Tensor w = test::random_tensor({shape.width}, DType::f32, 3);
    const Guarded y(shape.rows, shape.width, type), sum(shape.rows, shape.width, type);
    const Guarded rstd(1, shape.rows, DType::f32);
    const Tensor rstd_row = rstd.view().view({shape.rows});
    const Tensor want_y = Tensor::empty({shape.rows, shape.width}, type);
    const Tensor want_sum = Tensor::empty({shape.rows, shape.width}, type);
    const Tensor want_rstd = Tensor::empty({shape.rows}, DType::f32);
    if (with_residual) {
        cuda::add_rmsnorm({.x = x,
                           .residual = residual,
                           .sum = sum,
                           .w = w,
                           .eps = kEps,
                           .y = y,
                           .rstd = rstd_row},
                          nullptr);
        reference::add_rmsnorm(x, residual, want_sum, w, kEps, want_y, want_rstd);
        EXPECT_TRUE(test::bit_equal(sum, want_sum));
    } else {
        cuda::rmsnorm(x, w, kEps, y, rstd_row, nullptr);
        reference::rmsnorm(x, w, kEps, want_y, want_rstd);
    }
    EXPECT_LE(test::relative_error(rstd_row, want_rstd), tolerance(DType::f32));
    EXPECT_LE(test::relative_error(y, want_y), tolerance(type));
    EXPECT_TRUE(y.intact() && sum.intact() && rstd.intact());
}

TEST_P(CudaNorm, ForwardAgreesWithTheReference) {
    for (const Shape shape : kShapes)
        for (const DType type : {DType::bf16, DType::f32})
            for (const bool with_residual : {false, true})
                check_forward(shape, type, with_residual);
}

TEST_P(CudaNorm, SumMayOverwriteTheResidual) {
    const Tensor x = test::random_tensor({3, 512}, DType::bf16, 1);
    const Tensor residual = test::random_tensor({3, 512}, DType::bf16, 2);
    const Tensor w = test::random_tensor({512}, DType::f32, 3);
    const Tensor y = Tensor::empty({3, 512}, DType::bf16), want = y.clone();
    const Tensor sum = x.clone();
    reference::add_rmsnorm(x, residual, sum, w, kEps, want, {});
    cuda::add_rmsnorm(
        {.x = x, .residual = residual, .sum = residual, .w = w, .eps = kEps, .y = y, .rstd = {}},
        nullptr);
    EXPECT_TRUE(test::bit_equal(residual, sum));
    EXPECT_LE(test::relative_error(y, want), tolerance(DType::bf16));
}

// Leaves of unequal size, an empty one among them.
LeafTree some_tree(int64_t rows) {
    return make_leaf_tree({0, rows / 3, rows / 3, rows / 2, rows - rows / 4, rows});
}

void check_backward(Shape shape, DType type, bool with_residual) {
    SCOPED_TRACE(concat(shape.rows, " x ", shape.width, " ", name_of(type), " ", with_residual));
    const auto random = [&](uint64_t seed) {
        return test::random_tensor({shape.rows, shape.width}, type, seed);
    };
    const Guarded dx(shape.rows, shape.width, type), dw(1, shape.width, DType::f32);
    const Tensor rstd = Tensor::empty({shape.rows}, DType::f32);
    ops::RmsNormBackward io{.dy = test::with_strided_rows(random(4)),
                            .x = random(5),
                            .w = test::random_tensor({shape.width}, DType::f32, 6),
                            .rstd = rstd,
                            .residual_grad = with_residual ? random(7) : Tensor{},
                            .dx = Tensor::empty({shape.rows, shape.width}, type),
                            .dw = Tensor::empty({shape.width}, DType::f32),
                            .tree = some_tree(shape.rows)};
    reference::rmsnorm(io.x, io.w, kEps, io.dx, rstd);
    reference::rmsnorm_backward(io);
    const Tensor want_dx = io.dx, want_dw = io.dw;
    io.dx = dx;
    io.dw = dw.view().view({shape.width});
    const Guarded partials(1, cuda::rmsnorm_backward_partials(io.tree) * shape.width, DType::f32);
    cuda::rmsnorm_backward(
        io, partials.view().view({cuda::rmsnorm_backward_partials(io.tree), shape.width}), nullptr);
    EXPECT_TRUE(test::bit_equal(io.dw, want_dw)) << "the tree's order is part of the contract";
    EXPECT_LE(test::relative_error(dx, want_dx), tolerance(type));
    EXPECT_TRUE(dx.intact() && dw.intact() && partials.intact());
}

TEST_P(CudaNorm, BackwardAgreesWithTheReference) {
    for (const Shape shape : kShapes)
        for (const DType type : {DType::bf16, DType::f32})
            for (const bool with_residual : {false, true})
                if (shape.width > 1)  // else dx cancels down to its rounding errors
                    check_backward(shape, type, with_residual);
}

TEST(CudaNorm, RefusesShapesThatDoNotFit) {
    const Tensor x = Tensor::zeros({2, 8}, DType::bf16), w = Tensor::zeros({8}, DType::f32);
    EXPECT_THROW(cuda::rmsnorm(x, Tensor::zeros({7}, DType::f32), kEps, x, {}, nullptr), Error);
    EXPECT_THROW(cuda::rmsnorm(x, w, kEps, Tensor::zeros({2, 8}, DType::f32), {}, nullptr), Error);
    EXPECT_THROW(cuda::rmsnorm(x, w, kEps, Tensor::zeros({3, 8}, DType::bf16), {}, nullptr), Error);
}

}  // namespace
}  // namespace fucina
