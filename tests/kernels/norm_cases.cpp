// Cases of norm.h.
#include "kernels/norm.h"

#include "tests/reference/reference.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

constexpr double kRowSum =
    2e-6;  // the reference sums rows in fp64; 16 fp32 lanes differ by few ulp
constexpr double kBf16Step = 8e-3;  // a value at a rounding boundary may fall to the next bf16
constexpr const char* kReason = "row sums in fp32; in bf16 one rounding step";

double tolerance(DType type) {
    return type == DType::bf16 ? kBf16Step : kRowSum;
}

std::string shape_name(const char* op, DType type, int64_t rows, int64_t width) {
    return concat(op, " ", name_of(type), " [", rows, ", ", width, "]");
}

Tensor like(const Tensor& x) {
    return exec().empty({x.rows(), x.row_size()}, x.dtype());
}

KernelCase norm_case(int64_t rows, int64_t width, DType type) {
    return {
        .name = shape_name("rmsnorm", type, rows, width),
        .inputs = {random_tensor({rows, width}, type, 1), random_tensor({1, width}, DType::f32, 2)},
        .run =
            [](Version version, const Tensors& in) {
                const Tensor y = like(in[0]), rstd = exec().empty({in[0].rows()}, DType::f32);
                if (version == Version::fast)
                    ops::rmsnorm(exec(), in[0], in[1], 1e-6f, y, rstd);
                else
                    reference::rmsnorm(in[0], in[1], 1e-6f, y, rstd);
                return Tensors{y, rstd};
            },
        .tolerance = tolerance(type),
        .reason = kReason,
        .bytes = static_cast<double>(2 * rows * width * size_of(type))};
}

KernelCase add_norm_case(int64_t rows, int64_t width, DType type) {
    return {.name = shape_name("add_rmsnorm", type, rows, width),
            .inputs = {random_tensor({rows, width}, type, 3), random_tensor({rows, width}, type, 4),
                       random_tensor({1, width}, DType::f32, 5)},
            .run =
                [](Version version, const Tensors& in) {
                    const Tensor sum = exec().clone(in[1]),
                                 y = like(in[0]);  // sum aliases residual
                    if (version == Version::fast)
                        ops::add_rmsnorm(exec(), in[0], sum, sum, in[2], 1e-6f, y, {});
                    else
                        reference::add_rmsnorm(in[0], sum, sum, in[2], 1e-6f, y, {});
                    return Tensors{sum, y};
                },
            .tolerance = tolerance(type),
            .reason = kReason,
            .bytes = static_cast<double>(4 * rows * width * size_of(type)),
            .timed = [](const Tensors& in) -> std::function<void()> {
                const Tensor sum = like(in[0]), y = like(in[0]);
                return [=] { ops::add_rmsnorm(exec(), in[0], in[1], sum, in[2], 1e-6f, y, {}); };
            }};
}

// Leaves of 0, then about a third, then the rest of the rows.
LeafTree three_leaves(int64_t rows) {
    return make_leaf_tree({0, 0, rows / 3, rows});
}

KernelCase norm_backward_case(int64_t rows, int64_t width, DType type) {
    return {
        .name = shape_name("rmsnorm_backward", type, rows, width),
        .inputs = {random_tensor({rows, width}, type, 6), random_tensor({rows, width}, type, 7),
                   random_tensor({1, width}, DType::f32, 8),
                   random_tensor({rows, 1}, DType::f32, 9), random_tensor({rows, width}, type, 10)},
        .run =
            [](Version version, const Tensors& in) {
                const Tensor dx = exec().clone(in[4]);  // aliases residual_grad
                const Tensor dw = like(in[2]);
                const ops::RmsNormBackward io{.dy = in[0],
                                              .x = in[1],
                                              .w = in[2],
                                              .rstd = in[3],
                                              .residual_grad = dx,
                                              .dx = dx,
                                              .dw = dw,
                                              .tree = three_leaves(in[0].rows())};
                if (version == Version::fast)
                    ops::rmsnorm_backward(exec(), io);
                else
                    reference::rmsnorm_backward(io);
                return Tensors{dx, dw};
            },
        .tolerance = tolerance(type),
        .reason = kReason,
        .bytes = static_cast<double>(6 * rows * width * size_of(type)),
        .timed = [](const Tensors& in) -> std::function<void()> {
            const ops::RmsNormBackward io{.dy = in[0],
                                          .x = in[1],
                                          .w = in[2],
                                          .rstd = in[3],
                                          .residual_grad = in[4],
                                          .dx = like(in[0]),
                                          .dw = like(in[2]),
                                          .tree = three_leaves(in[0].rows())};
            return [=] { ops::rmsnorm_backward(exec(), io); };
        }};
}

// inputs: x, w, residual gradient (as an input of the forward: the residual path y2 = x).
GradientCase norm_gradient() {
    return {
        .name = "rmsnorm_backward",
        .inputs = {random_tensor({5, 19}, DType::f32, 11), random_tensor({1, 19}, DType::f32, 12)},
        .forward =
            [](const Tensors& in) {
                const Tensor y = like(in[0]);
                reference::rmsnorm(in[0], in[1], 1e-5f, y, {});
                return Tensors{y, exec().clone(in[0])};
            },
        .backward =
            [](const Tensors& in, const Tensors& d) {
                const Tensor y = like(in[0]), rstd = exec().empty({5}, DType::f32);
                ops::rmsnorm(exec(), in[0], in[1], 1e-5f, y, rstd);
                const Tensor dx = like(in[0]), dw = like(in[1]);
                ops::rmsnorm_backward(exec(), {.dy = d[0],
                                               .x = in[0],
                                               .w = in[1],
                                               .rstd = rstd,
                                               .residual_grad = d[1],
                                               .dx = dx,
                                               .dw = dw,
                                               .tree = three_leaves(5)});
                return Tensors{dx, dw};
            }};
}

const AddCases kNorm([](Cases& cases) {
    for (const DType type : {DType::f32, DType::bf16})
        for (const auto& [rows, width] :
             {std::pair<int64_t, int64_t>{1, 1}, {5, 17}, {33, 512}, {19, 7168}}) {
            cases.kernels.push_back(norm_case(rows, width, type));
            cases.kernels.push_back(add_norm_case(rows, width, type));
            cases.kernels.push_back(norm_backward_case(rows, width, type));
        }
    cases.gradients.push_back(norm_gradient());
    for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{2048, 512}, {256, 7168}}) {
        cases.bench.push_back([=] { return norm_case(rows, width, DType::bf16); });
        cases.bench.push_back([=] { return add_norm_case(rows, width, DType::bf16); });
        cases.bench.push_back([=] { return norm_backward_case(rows, width, DType::bf16); });
    }
});

}  // namespace
}  // namespace fucina::test
