// Cases of rope.h.
#include "kernels/rope.h"

#include "tests/reference/reference.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

struct RopeShape {
    int64_t rows, heads, head_dim, rotated;
    RopeLayout layout;
    DType type;
    bool inverse;
};

Tensor rope_positions(const RopeShape& s) {
    std::vector<int32_t> positions;
    for (int64_t t = 0; t < s.rows; ++t)
        positions.push_back(static_cast<int32_t>((t * 7) % (s.rows + 5)));
    return tensor_of(exec(), positions);
}

RopeTable here(RopeTable table) {
    table.cos = exec().clone(table.cos);
    table.sin = exec().clone(table.sin);
    return table;
}

// In place, on a column view.
KernelCase rope_case(const RopeShape& s) {
    const RopeTable table = make_rope_table(s.rows + 5, s.rotated, 1e4, {}, s.layout);
    return {.name = concat(s.inverse ? "rope inverse " : "rope ", name_of(s.type),
                           s.layout == RopeLayout::interleaved ? " interleaved" : " half-split",
                           " [", s.rows, ", ", s.heads, " x ", s.head_dim, "] rotated ", s.rotated),
            .inputs = {random_tensor({s.rows, s.heads * s.head_dim + 3}, s.type, 13)},
            .run =
                [=](Version version, const Tensors& in) {
                    const Tensor x = exec().clone(in[0]);
                    const Tensor view = x.columns(3, x.dim(1));
                    if (version == Version::fast)
                        ops::rope(exec(), view, s.heads, rope_positions(s), here(table), s.inverse);
                    else
                        reference::rope(view, s.heads, rope_positions(s), table, s.inverse);
                    return Tensors{x};
                },
            .reason = "the same products and sums",
            .bytes = static_cast<double>(2 * s.rows * s.heads * s.rotated * size_of(s.type)),
            .timed = [=](const Tensors& in) -> std::function<void()> {
                const Tensor view = in[0].columns(3, in[0].dim(1));
                return
                    [=] { ops::rope(exec(), view, s.heads, rope_positions(s), table, s.inverse); };
            }};
}

GradientCase rope_gradient(RopeLayout layout) {
    const auto rotate = [layout](const Tensor& x, bool inverse) {
        const Tensor positions = tensor_of(exec(), std::vector<int32_t>{0, 3, 9});
        const Tensor y = exec().clone(x);
        ops::rope(exec(), y, 2, positions, here(make_rope_table(10, 6, 100, {}, layout)), inverse);
        return y;
    };
    return {
        .name = "rope",
        .inputs = {random_tensor({3, 20}, DType::f32, 14)},
        .forward = [=](const Tensors& in) { return Tensors{rotate(in[0], false)}; },
        .backward = [=](const Tensors&, const Tensors& d) { return Tensors{rotate(d[0], true)}; }};
}

const AddCases kRope([](Cases& cases) {
    // The shape of the training benchmark.
    for (const RopeLayout layout : {RopeLayout::interleaved, RopeLayout::half_split})
        cases.bench.push_back([=] {
            return rope_case({2048, 8, 96, 32, layout, DType::bf16, false});
        });
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
