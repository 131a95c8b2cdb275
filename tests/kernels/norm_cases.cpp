// Cases of norm.h and rope.h.
#include "kernels/reference/reference.h"
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
    return Tensor::empty({x.rows(), x.row_size()}, x.dtype());
}

KernelCase norm_case(int64_t rows, int64_t width, DType type) {
    return {
        .name = shape_name("rmsnorm", type, rows, width),
        .inputs = {random_tensor({rows, width}, type, 1), random_tensor({1, width}, DType::f32, 2)},
        .run =
            [](Version version, const Tensors& in) {
                const Tensor y = like(in[0]), rstd = Tensor::empty({in[0].rows()}, DType::f32);
                if (version == Version::fast)
                    ops::rmsnorm(in[0], in[1], 1e-6f, y, rstd);
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
                    const Tensor sum = in[1].clone(), y = like(in[0]);  // sum aliases residual
                    if (version == Version::fast)
                        ops::add_rmsnorm(in[0], sum, sum, in[2], 1e-6f, y, {});
                    else
                        reference::add_rmsnorm(in[0], sum, sum, in[2], 1e-6f, y, {});
                    return Tensors{sum, y};
                },
            .tolerance = tolerance(type),
            .reason = kReason,
            .bytes = static_cast<double>(4 * rows * width * size_of(type))};
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
                const Tensor dx = in[4].clone();  // aliases residual_grad
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
                    ops::rmsnorm_backward(io);
                else
                    reference::rmsnorm_backward(io);
                return Tensors{dx, dw};
            },
        .tolerance = tolerance(type),
        .reason = kReason,
        .bytes = static_cast<double>(6 * rows * width * size_of(type))};
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
                return Tensors{y, in[0].clone()};
            },
        .backward =
            [](const Tensors& in, const Tensors& d) {
                const Tensor y = like(in[0]), rstd = Tensor::empty({5}, DType::f32);
                ops::rmsnorm(in[0], in[1], 1e-5f, y, rstd);
                const Tensor dx = like(in[0]), dw = like(in[1]);
                ops::rmsnorm_backward({.dy = d[0],
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

struct RopeShape {
    int64_t rows, heads, head_dim, rotated;
    RopeLayout layout;
    DType type;
    bool inverse;
};

KernelCase rope_case(const RopeShape& s) {
    return {.name = concat(s.inverse ? "rope inverse " : "rope ", name_of(s.type),
                           s.layout == RopeLayout::interleaved ? " interleaved" : " half-split",
                           " [", s.rows, ", ", s.heads, " x ", s.head_dim, "] rotated ", s.rotated),
            .inputs = {random_tensor({s.rows, s.heads * s.head_dim + 3}, s.type, 13)},
            .run =
                [s](Version version, const Tensors& in) {
                    const Tensor x = in[0].clone();
                    const Tensor view = x.columns(3, x.dim(1));
                    const RopeTable table =
                        make_rope_table(s.rows + 5, s.rotated, 1e4, {}, s.layout);
                    std::vector<int32_t> positions;
                    for (int64_t t = 0; t < s.rows; ++t)
                        positions.push_back(static_cast<int32_t>((t * 7) % (s.rows + 5)));
                    if (version == Version::fast)
                        ops::rope(view, s.heads, positions.data(), table, s.inverse);
                    else
                        reference::rope(view, s.heads, positions.data(), table, s.inverse);
                    return Tensors{x};
                },
            .reason = "the same products and sums",
            .bytes = static_cast<double>(2 * s.rows * s.heads * s.rotated * size_of(s.type))};
}

GradientCase rope_gradient(RopeLayout layout) {
    const auto rotate = [layout](const Tensor& x, bool inverse) {
        const int32_t positions[] = {0, 3, 9};
        const Tensor y = x.clone();
        ops::rope(y, 2, positions, make_rope_table(10, 6, 100, {}, layout), inverse);
        return y;
    };
    return {
        .name = "rope",
        .inputs = {random_tensor({3, 20}, DType::f32, 14)},
        .forward = [=](const Tensors& in) { return Tensors{rotate(in[0], false)}; },
        .backward = [=](const Tensors&, const Tensors& d) { return Tensors{rotate(d[0], true)}; }};
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
    for (const DType type : {DType::f32, DType::bf16})
        for (const RopeLayout layout : {RopeLayout::interleaved, RopeLayout::half_split}) {
            cases.kernels.push_back(rope_case({1, 1, 2, 2, layout, type, false}));
            cases.kernels.push_back(rope_case({7, 3, 19, 14, layout, type, true}));
            cases.kernels.push_back(rope_case({17, 128, 192, 64, layout, type, false}));
        }
    cases.gradients.push_back(rope_gradient(RopeLayout::interleaved));
    cases.gradients.push_back(rope_gradient(RopeLayout::half_split));
});

}  // namespace
}  // namespace fucina::test
