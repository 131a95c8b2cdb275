// Cases of optimizer.h and of embedding.h's table.
#include "kernels/embedding.h"
#include "kernels/optimizer.h"

#include "tests/reference/reference.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

constexpr AdamW kStep{.learning_rate = 3e-3f,
                      .beta1 = 0.9f,
                      .beta2 = 0.95f,
                      .eps = 1e-8f,
                      .weight_decay = 0.1f,
                      .bias_correction1 = 0.19f,
                      .bias_correction2 = 0.0975f,
                      .grad_scale = 0.7f};

KernelCase adamw_case(int64_t count, DType moments) {
    const Tensor v = random_tensor({1, count}, moments, 43);
    for (int64_t j = 0; j < count; ++j) set(v, 0, j, get(v, 0, j) * get(v, 0, j));
    return {
        .name = concat("adamw ", name_of(moments), " moments [", count, "]"),
        .inputs = {random_tensor({1, count}, DType::f32, 40),
                   random_tensor({1, count}, DType::f32, 41),
                   random_tensor({1, count}, moments, 42), v},
        .run =
            [](Version version, const Tensors& in) {
                const Tensors out{exec().clone(in[0]), exec().clone(in[2]), exec().clone(in[3])};
                if (version == Version::fast)
                    ops::adamw(exec(), kStep, out[0], in[1], out[1], out[2]);
                else
                    reference::adamw(kStep, out[0], in[1], out[1], out[2]);
                return out;
            },
        .reason = "elementwise: the same operations in the same order",
        .bytes = static_cast<double>(count * (12 + 4 * size_of(moments))),
        .timed = [](const Tensors& in) -> std::function<void()> {
            return [=] { ops::adamw(exec(), kStep, in[0], in[1], in[2], in[3]); };
        }};
}

KernelCase norm_case(int64_t rows, int64_t width, int64_t chunks) {
    return {.name = concat("sum_of_squares [", rows, ", ", width, "] in ", chunks),
            .inputs = {random_tensor({rows, width}, DType::f32, 44)},
            .run =
                [chunks](Version version, const Tensors& in) {
                    const Tensor out = exec().empty({1, 2}, DType::f32);
                    const double sum =
                        (version == Version::fast ? ops::sum_of_squares(exec(), in[0], chunks)
                                                  : reference::sum_of_squares(in[0], chunks))
                            .value();
                    std::memcpy(out.raw(), &sum, sizeof sum);
                    return Tensors{out};
                },
            .reason = "the contract fixes the order",
            .bytes = static_cast<double>(4 * rows * width)};
}

// On column views, so that row strides are honoured.
KernelCase cast_case(int64_t rows, int64_t width, DType from, DType to) {
    return {
        .name = concat("cast ", name_of(from), " to ", name_of(to), " [", rows, ", ", width, "]"),
        .inputs = {random_tensor({rows, width + 5}, from, 45)},
        .run =
            [to](Version version, const Tensors& in) {
                const Tensor x = in[0].columns(2, in[0].dim(1) - 3);
                const Tensor out = exec().empty({x.rows(), x.row_size()}, to);
                if (version == Version::fast)
                    ops::cast(exec(), x, out);
                else
                    reference::cast(x, out);
                return Tensors{out};
            },
        .bytes = static_cast<double>(rows * width * (size_of(from) + size_of(to)))};
}

KernelCase add_case(int64_t rows, int64_t width) {
    return {.name = concat("add_in_place [", rows, ", ", width, "]"),
            .inputs = {random_tensor({rows, width}, DType::f32, 46),
                       random_tensor({rows, width}, DType::f32, 47)},
            .run =
                [](Version version, const Tensors& in) {
                    const Tensor y = exec().clone(in[0]);
                    if (version == Version::fast)
                        ops::add_in_place(exec(), y, in[1]);
                    else
                        reference::add_in_place(y, in[1]);
                    return Tensors{y};
                },
            .bytes = static_cast<double>(12 * rows * width),
            .timed = [](const Tensors& in) -> std::function<void()> {
                return [=] { ops::add_in_place(exec(), in[0], in[1]); };
            }};
}

Tensor random_ids(int64_t count, int64_t vocabulary) {
    const Tensor ids = exec().empty({1, count}, DType::i32);
    Random random(48);
    for (int64_t t = 0; t < count; ++t)
        ids.data<int32_t>()[t] = static_cast<int32_t>(random.below(vocabulary));
    return ids;
}

KernelCase embedding_case(int64_t tokens, int64_t vocabulary, int64_t width, DType type) {
    return {.name = concat("embedding ", name_of(type), " ", tokens, " of [", vocabulary, ", ",
                           width, "]"),
            .inputs = {random_ids(tokens, vocabulary),
                       random_tensor({vocabulary, width}, DType::f32, 49)},
            .run =
                [type](Version version, const Tensors& in) {
                    const Tensor out = exec().empty({in[0].size(), in[1].row_size()}, type);
                    if (version == Version::fast)
                        ops::embedding(exec(), in[0], in[1], out);
                    else
                        reference::embedding(in[0], in[1], out);
                    return Tensors{out};
                },
            .bytes = static_cast<double>(tokens * width * (4 + size_of(type)))};
}

KernelCase embedding_backward_case(int64_t tokens, int64_t vocabulary, int64_t width, DType type) {
    return {.name = concat("embedding_backward ", name_of(type), " ", tokens, " of [", vocabulary,
                           ", ", width, "]"),
            .inputs = {random_ids(tokens, vocabulary), random_tensor({tokens, width}, type, 50)},
            .run =
                [vocabulary](Version version, const Tensors& in) {
                    const int64_t tokens = in[1].rows();
                    const LeafTree tree =
                        make_leaf_tree({0, tokens / 5, tokens / 5, tokens / 2, tokens, tokens});
                    const Tensor out = exec().empty({vocabulary, in[1].row_size()}, DType::f32);
                    if (version == Version::fast)
                        ops::embedding_backward(exec(), in[0], in[1], tree, out);
                    else
                        reference::embedding_backward(in[0], in[1], tree, out);
                    return Tensors{out};
                },
            .reason = "the contract fixes the order",
            .bytes = static_cast<double>(tokens * width * size_of(type) + 4 * vocabulary * width)};
}

const AddCases kOptimizer([](Cases& cases) {
    for (const int64_t count : {1, 17, 140000})
        for (const DType moments : {DType::f32, DType::bf16})
            cases.kernels.push_back(adamw_case(count, moments));
    for (const auto& [rows, width] :
         {std::pair<int64_t, int64_t>{1, 1}, {3, 511}, {5, 512}, {137, 1000}}) {
        cases.kernels.push_back(norm_case(rows, width, 1));
        if (width % 4 == 0) cases.kernels.push_back(norm_case(rows, width, 4));
        cases.kernels.push_back(add_case(rows, width));
        cases.kernels.push_back(cast_case(rows, width, DType::f32, DType::bf16));
        cases.kernels.push_back(cast_case(rows, width, DType::bf16, DType::f32));
        cases.kernels.push_back(cast_case(rows, width, DType::f32, DType::f32));
    }
    // The shapes of the training benchmark.
    constexpr int64_t kWeights = 16 << 20;
    for (const DType moments : {DType::f32, DType::bf16})
        cases.bench.push_back([=] { return adamw_case(kWeights, moments); });
    cases.bench.push_back([=] { return norm_case(kWeights / 512, 512, 1); });
    cases.bench.push_back([=] { return add_case(1, kWeights); });
    cases.bench.push_back([=] { return cast_case(2048, 4096, DType::f32, DType::bf16); });
});

const AddCases kEmbedding([](Cases& cases) {
    for (const DType type : {DType::f32, DType::bf16}) {
        cases.kernels.push_back(embedding_case(1, 3, 1, type));
        cases.kernels.push_back(embedding_case(19, 11, 7168, type));
        cases.kernels.push_back(embedding_backward_case(1, 3, 1, type));
        cases.kernels.push_back(embedding_backward_case(70, 40, 33, type));
        cases.kernels.push_back(embedding_backward_case(90, 200, 2048, type));
    }
    cases.bench.push_back([=] { return embedding_case(2048, 8192, 512, DType::bf16); });
    cases.bench.push_back([=] { return embedding_backward_case(2048, 8192, 512, DType::bf16); });
});

}  // namespace
}  // namespace fucina::test
