// Cases of gemm.h in fp32 and bf16, its gradients and benches.
#include "tests/kernels/gemm_cases.h"

namespace fucina::test {
namespace {

// The whole expert MLP: y = weight · down(silu(x Wg)·(x Wu)), all inputs at once.
constexpr GroupedShape kExpert{.groups = 3, .rows = 5, .n = 4, .k = 6, .type = DType::f32};

struct Forward {
    Tensor gate_up, h, y;
};

// inputs: x, gate_up weight [E·2F, D], down [E·D, F], row weights.
Forward expert_forward(const Ragged& rows, const Tensors& t) {
    const GroupedShape& s = kExpert;
    const Forward out{empty_like(s.rows, 2 * s.n, s.type), empty_like(s.rows, s.n, s.type),
                      empty_like(s.rows, s.k, s.type)};
    const Tensor w = t[1].view({s.groups, 2 * s.n, s.k}), down = t[2].view({s.groups, s.k, s.n});
    ops::gate_up_swiglu(exec(), t[0], rows.groups(false),
                        ops::pack(exec(), w, PackKind::gate_up, s.type), out.gate_up, out.h);
    ops::grouped_linear(exec(), out.h, rows.groups(false),
                        ops::pack(exec(), down, PackKind::forward, s.type), out.y);
    return out;
}

GradientCase expert_gradient() {
    const GroupedShape& s = kExpert;
    return {
        .name = "expert MLP",
        .inputs = {random_tensor({s.rows, s.k}, DType::f32, 66),
                   random_tensor({s.groups * 2 * s.n, s.k}, DType::f32, 67, 0.5f),
                   random_tensor({s.groups * s.k, s.n}, DType::f32, 68, 0.5f),
                   random_tensor({s.rows, 1}, DType::f32, 69)},
        .forward =
            [=](const Tensors& t) {
                const Tensor y = expert_forward(ragged(s, s.rows), t).y;
                for (int64_t i = 0; i < s.rows; ++i)
                    for (int64_t j = 0; j < s.k; ++j) set(y, i, j, get(y, i, j) * get(t[3], i, 0));
                return Tensors{y};
            },
        .backward =
            [=](const Tensors& t, const Tensors& d) {
                const Tensor w = t[1].view({s.groups, 2 * s.n, s.k});
                const Tensor down = t[2].view({s.groups, s.k, s.n});
                const Tensors parts =
                    down_backward(Version::fast, s, ragged(s, s.rows),
                                  {d[0], expert_forward(ragged(s, s.rows), t).gate_up, t[3], down},
                                  ops::pack(exec(), down, PackKind::dgrad, s.type));
                const Tensor dx = exec().clone(t[0]), dw = exec().clone(w),
                             d_down = exec().clone(down);
                ops::grouped_linear(exec(), parts[0], ragged(s, s.rows).groups(false),
                                    ops::pack(exec(), w, PackKind::dgrad, s.type), dx);
                ops::grouped_linear_wgrad(
                    exec(), {.dy = parts[0], .x = t[0], .leaves = ragged(s, s.rows).leaves}, dw);
                ops::grouped_linear_wgrad(
                    exec(), {.dy = d[0], .x = parts[1], .leaves = ragged(s, s.rows).leaves},
                    d_down);
                return Tensors{dx, dw.view({s.groups * 2 * s.n, s.k}),
                               d_down.view({s.groups * s.k, s.n}), parts[2]};
            }};
}

// The shapes of the training benchmark: 2048 tokens, four experts each.
void add_bench(Cases& cases) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{416, 512},
                               {768, 256},
                               {512, 512},
                               {1024, 128},
                               {3072, 512}}) {
        cases.bench.push_back([=] { return linear_case({2048, n, k, DType::bf16}); });
        cases.bench.push_back([=] { return linear_case({2048, n, k, DType::bf16, true}); });
        for (const bool dgrad : {false, true})
            cases.bench.push_back([=] {
                return linear_case({2048, n, k, DType::bf16, dgrad, false, {.chunks = 4}});
            });
        cases.bench.push_back([=] { return wgrad_case(2048, n, k, DType::bf16); });
    }
    cases.bench.push_back([] { return linear_case({2048, 32, 512, DType::f32}); });
    constexpr GroupedShape kUp{32, 8192, 384, 512, DType::bf16, true};
    constexpr GroupedShape kDown{32, 8192, 512, 384, DType::bf16, false};
    cases.bench.push_back([=] { return gate_up_case(kUp); });
    cases.bench.push_back([=] { return grouped_case(kDown); });
    cases.bench.push_back([=] { return down_backward_case(kUp); });
    cases.bench.push_back([=] { return grouped_wgrad_case(kUp); });
    cases.bench.push_back([=] { return grouped_wgrad_case(kDown); });
}

// Pieces of 1 to 45 of k, whole blocks of 32 and not, few rows and many, empty experts.
void add_chunks(Cases& cases, DType type) {
    for (const KCut cut : {KCut{1, 2}, {2, 1}, {2, 2}, {4, 1}, {4, 2}}) {
        for (const int64_t piece : {1, 32, 45})
            for (const int64_t rows : {1, 2, 3, 4, 35}) {
                const int64_t k = piece * cut.chunks * cut.parts;
                cases.kernels.push_back(linear_case({rows, 70, k, type, false, false, cut}));
                cases.kernels.push_back(linear_case({rows, k, 70, type, true, true, cut}));
            }
        for (const bool index : {false, true}) {
            const GroupedShape s{5, 70, 48, 40, type, index, cut};
            cases.kernels.push_back(grouped_case(s));
            cases.kernels.push_back(gate_up_case(s));
            cases.kernels.push_back(down_backward_case(s));
        }
    }
}

const AddCases kGemm([](Cases& cases) {
    add_bench(cases);
    for (const DType type : {DType::f32, DType::bf16}) {
        add_chunks(cases, type);
        for (const auto& [rows, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                         {1, 33, 65},
                                         {31, 32, 96},
                                         {33, 70, 31},
                                         {65, 129, 200}}) {
            cases.kernels.push_back(linear_case({rows, n, k, type}));
            cases.kernels.push_back(linear_case({rows, n, k, type, true, true}));
            cases.kernels.push_back(wgrad_case(rows, n, k, type));
        }
        for (const bool index : {false, true})
            for (const GroupedShape& s :
                 {GroupedShape{2, 1, 3, 5, type, index}, GroupedShape{5, 70, 48, 40, type, index},
                  GroupedShape{256, 64, 32, 33, type, index}}) {
                cases.kernels.push_back(grouped_case(s));
                cases.kernels.push_back(grouped_wgrad_case(s));
                cases.kernels.push_back(gate_up_case(s));
                cases.kernels.push_back(down_backward_case(s));
            }
    }
    cases.kernels.push_back(linear_case({3, 256, 7168, DType::f32}));
    cases.kernels.push_back(linear_case({3, 2048, 7168, DType::bf16}));
    cases.kernels.push_back(linear_case({2, 7168, 2048, DType::bf16, true}));
    cases.kernels.push_back(gate_up_case({2, 3, 256, 7168, DType::bf16, true}));
    cases.gradients.push_back(expert_gradient());
});

}  // namespace
}  // namespace fucina::test
