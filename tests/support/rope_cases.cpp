#include "tests/support/rope_cases.h"

#include "kernels/reference/reference.h"
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
    return tensor_of(positions);
}

// In place, on a column view.
KernelCase rope_case(const Rope& fast, const RopeShape& s) {
    const RopeTable table = make_rope_table(s.rows + 5, s.rotated, 1e4, {}, s.layout);
    const Tensor positions = rope_positions(s);
    return {.name = concat(s.inverse ? "rope inverse " : "rope ", name_of(s.type),
                           s.layout == RopeLayout::interleaved ? " interleaved" : " half-split",
                           " [", s.rows, ", ", s.heads, " x ", s.head_dim, "] rotated ", s.rotated),
            .inputs = {random_tensor({s.rows, s.heads * s.head_dim + 3}, s.type, 13)},
            .run =
                [=](Version version, const Tensors& in) {
                    const Tensor x = in[0].clone();
                    const Tensor view = x.columns(3, x.dim(1));
                    const Rope rope = version == Version::fast ? fast : reference::rope;
                    rope(view, s.heads, positions, table, s.inverse);
                    return Tensors{x};
                },
            .reason = "the same products and sums",
            .bytes = static_cast<double>(2 * s.rows * s.heads * s.rotated * size_of(s.type)),
            .timed = [=](const Tensors& in) -> std::function<void()> {
                const Tensor view = in[0].columns(3, in[0].dim(1));
                return [=] { fast(view, s.heads, positions, table, s.inverse); };
            }};
}

GradientCase rope_gradient(const Rope& fast, RopeLayout layout) {
    const auto rotate = [fast, layout](const Tensor& x, bool inverse) {
        const Tensor positions = tensor_of(std::vector<int32_t>{0, 3, 9});
        const Tensor y = x.clone();
        fast(y, 2, positions, make_rope_table(10, 6, 100, {}, layout), inverse);
        return y;
    };
    return {
        .name = "rope",
        .inputs = {random_tensor({3, 20}, DType::f32, 14)},
        .forward = [=](const Tensors& in) { return Tensors{rotate(in[0], false)}; },
        .backward = [=](const Tensors&, const Tensors& d) { return Tensors{rotate(d[0], true)}; }};
}

}  // namespace

void add_rope_cases(Cases& cases, const Rope& fast) {
    // The shape of the training benchmark.
    for (const RopeLayout layout : {RopeLayout::interleaved, RopeLayout::half_split})
        cases.bench.push_back([=] {
            return rope_case(fast, {2048, 8, 96, 32, layout, DType::bf16, false});
        });
    for (const DType type : {DType::f32, DType::bf16})
        for (const RopeLayout layout : {RopeLayout::interleaved, RopeLayout::half_split}) {
            cases.kernels.push_back(rope_case(fast, {1, 1, 2, 2, layout, type, false}));
            cases.kernels.push_back(rope_case(fast, {7, 3, 19, 14, layout, type, true}));
            cases.kernels.push_back(rope_case(fast, {17, 128, 192, 64, layout, type, false}));
        }
    cases.gradients.push_back(rope_gradient(fast, RopeLayout::interleaved));
    cases.gradients.push_back(rope_gradient(fast, RopeLayout::half_split));
}

}  // namespace fucina::test
