// Cases of gemm.h. Products follow one order, so parity is of bits; activations go through exp.
#include "kernels/reference/reference.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

constexpr const char* kOrder = "gemm.h fixes the order of summation";
constexpr const char* kSwiglu = "exp within 2 ulp, F-term sums; in bf16 one rounding step";

double swiglu_tolerance(DType type) {
    return type == DType::f32 ? 1e-5 : 8e-3;
}

bool is_fp8(DType products) {
    return products == DType::f8_e4m3;
}
// What products in FP8 take, too.
DType data(DType products) {
    return is_fp8(products) ? DType::bf16 : products;
}

Tensor empty_like(int64_t rows, int64_t columns, DType type) {
    return exec().empty({rows, columns}, type);
}

PackedWeight packed(Version version, const Tensor& w, PackKind kind, DType type, KCut cut) {
    if (version == Version::reference) return reference::pack(w, kind, type, {.cut = cut});
    return ops::pack(exec(), w, kind, type, {.cut = cut});
}

std::string describe(KCut cut) {
    if (cut.chunks * cut.parts == 1) return "";
    return concat(" in ", cut.chunks, " chunks of ", cut.parts, " parts");
}

struct LinearShape {
    int64_t rows, n, k;
    DType type;
    bool dgrad = false, wide_output = false;  // fp32 output
    KCut cut = {};
};

// x is a column view, so that its row stride is not its width.
KernelCase linear_case(const LinearShape& s) {
    const int64_t in = s.dgrad ? s.n : s.k, out = s.dgrad ? s.k : s.n;
    const PackKind kind = s.dgrad ? PackKind::dgrad : PackKind::forward;
    const DType result = s.wide_output ? DType::f32 : data(s.type);
    return {.name = concat(s.dgrad ? "linear dgrad " : "linear ", name_of(s.type), " to ",
                           name_of(result), " [", s.rows, ", ", in, "] -> ", out, describe(s.cut)),
            .inputs = {random_tensor({s.rows, in + 3}, data(s.type), 51),
                       random_tensor({s.n, s.k}, DType::f32, 52, 0.1f)},
            .run =
                [=](Version version, const Tensors& t) {
                    const Tensor x = t[0].columns(1, in + 1), y = empty_like(s.rows, out, result);
                    const PackedWeight w = packed(version, t[1], kind, s.type, s.cut);
                    if (version == Version::fast)
                        ops::linear(exec(), x, w, y);
                    else
                        reference::linear(x, w, y);
                    return Tensors{y};
                },
            .reason = kOrder,
            .flops = 2.0 * static_cast<double>(s.rows * s.n * s.k),
            .bytes = static_cast<double>((s.rows * (in + out) + s.n * s.k) * size_of(s.type)),
            .timed = [=](const Tensors& t) -> std::function<void()> {
                const Tensor x = t[0].columns(1, in + 1), y = empty_like(s.rows, out, result);
                const PackedWeight w = packed(Version::fast, t[1], kind, s.type, s.cut);
                return [=] { ops::linear(exec(), x, w, y); };
            }};
}

LeafTree leaves(int64_t rows) {
    return make_leaf_tree({0, rows / 3, rows / 3, rows});
}

KernelCase wgrad_case(int64_t rows, int64_t n, int64_t k, DType type) {
    return {.name = concat("linear_wgrad ", name_of(type), " ", rows, " rows, [", n, ", ", k, "]"),
            .inputs = {random_tensor({rows, n}, data(type), 53),
                       random_tensor({rows, k}, data(type), 54)},
            .run =
                [=](Version version, const Tensors& t) {
                    const Tensor dw = empty_like(n, k, DType::f32);
                    if (version == Version::fast)
                        ops::linear_wgrad(exec(), t[0], t[1], leaves(rows), dw, is_fp8(type));
                    else
                        reference::linear_wgrad(t[0], t[1], leaves(rows), dw, is_fp8(type));
                    return Tensors{dw};
                },
            .reason = kOrder,
            .flops = 2.0 * static_cast<double>(rows * n * k),
            .bytes = static_cast<double>(rows * (n + k) * size_of(type) + 4 * n * k)};
}

// Ragged groups: group 1 is empty, the others share the rows unevenly.
struct GroupedShape {
    int64_t groups, rows, n, k;
    DType type;
    bool through_index = false;
    KCut cut = {};
};

struct Ragged {
    Tensor offsets, leaves;  // i64 [groups + 1], [groups, leaves + 1]
    Tensor index;            // i32: rows of a tensor of `sources` rows
    RowGroups groups(bool through_index) const {
        return {index.size(), offsets, through_index ? index : Tensor()};
    }
};

Ragged ragged(const GroupedShape& s, int64_t sources) {
    std::vector<int64_t> offsets{0}, leaves;
    std::vector<int32_t> index;
    Random random(55);
    for (int64_t g = 0; g < s.groups; ++g) {
        const int64_t left = s.rows - offsets.back(), more = s.groups - g;
        int64_t count = g == 1 ? 0 : std::min(left, random.below(2 * left / more + 1));
        if (more == 1) count = left;
        // Three leaves, one of them empty.
        for (const int64_t end : {int64_t{0}, count / 3, count / 3, count})
            leaves.push_back(offsets.back() + end);
        offsets.push_back(offsets.back() + count);
    }
    for (int64_t i = 0; i < s.rows; ++i)
        index.push_back(static_cast<int32_t>(random.below(sources)));
    return {tensor_of(exec(), offsets), tensor_of(exec(), leaves).view({s.groups, 4}),
            tensor_of(exec(), index)};
}

std::string grouped_name(const char* op, const GroupedShape& s) {
    return concat(op, " ", name_of(s.type), s.through_index ? " indexed " : " ", s.rows,
                  " rows in ", s.groups, " groups, [", s.n, ", ", s.k, "]", describe(s.cut));
}

KernelCase grouped_case(const GroupedShape& s) {
    const int64_t sources = s.rows;
    return {
        .name = grouped_name("grouped_linear", s),
        .inputs = {random_tensor({sources, s.k}, data(s.type), 56),
                   random_tensor({s.groups, s.n, s.k}, DType::f32, 57, 0.1f)},
        .run =
            [=](Version version, const Tensors& t) {
                const Tensor y = empty_like(s.rows, s.n, data(s.type));
                const PackedWeight w = packed(version, t[1], PackKind::forward, s.type, s.cut);
                if (version == Version::fast)
                    ops::grouped_linear(exec(), t[0], ragged(s, s.rows).groups(s.through_index), w,
                                        y);
                else
                    reference::grouped_linear(t[0], ragged(s, s.rows).groups(s.through_index), w,
                                              y);
                return Tensors{y};
            },
        .reason = kOrder,
        .flops = 2.0 * static_cast<double>(s.rows * s.n * s.k),
        .bytes =
            static_cast<double>((s.rows * (s.n + s.k) + s.groups * s.n * s.k) * size_of(s.type)),
        .timed = [=](const Tensors& t) -> std::function<void()> {
            const Tensor y = empty_like(s.rows, s.n, data(s.type));
            const PackedWeight w = packed(Version::fast, t[1], PackKind::forward, s.type, s.cut);
            return [=] {
                ops::grouped_linear(exec(), t[0], ragged(s, s.rows).groups(s.through_index), w, y);
            };
        }};
}

KernelCase grouped_wgrad_case(const GroupedShape& s) {
    return {.name = grouped_name("grouped_linear_wgrad", s),
            .inputs = {random_tensor({s.rows, s.n}, data(s.type), 58),
                       random_tensor({s.rows, s.k}, data(s.type), 59)},
            .run =
                [=](Version version, const Tensors& t) {
                    const ops::GroupedWgrad in{
                        .dy = t[0],
                        .x = t[1],
                        .x_index = s.through_index ? ragged(s, s.rows).index : Tensor(),
                        .leaves = ragged(s, s.rows).leaves,
                        .fp8 = is_fp8(s.type)};
                    const Tensor dw = exec().empty({s.groups, s.n, s.k}, DType::f32);
                    if (version == Version::fast)
                        ops::grouped_linear_wgrad(exec(), in, dw);
                    else
                        reference::grouped_linear_wgrad(in, dw);
                    return Tensors{dw.view({s.groups * s.n, s.k})};
                },
            .reason = kOrder,
            .flops = 2.0 * static_cast<double>(s.rows * s.n * s.k),
            .bytes = static_cast<double>(s.rows * (s.n + s.k) * size_of(s.type) +
                                         4 * s.groups * s.n * s.k)};
}

// n is F here.
KernelCase gate_up_case(const GroupedShape& s) {
    const auto weight = [s](Version version, const Tensor& w) {
        return packed(version, w, PackKind::gate_up, s.type, s.cut);
    };
    return {.name = grouped_name("gate_up_swiglu", s),
            .inputs = {random_tensor({s.rows, s.k}, data(s.type), 60),
                       random_tensor({s.groups, 2 * s.n, s.k}, DType::f32, 61, 0.2f)},
            .run =
                [=](Version version, const Tensors& t) {
                    const Tensor gate_up = empty_like(s.rows, 2 * s.n, data(s.type));
                    const Tensor h = empty_like(s.rows, s.n, data(s.type));
                    const PackedWeight w = weight(version, t[1]);
                    if (version == Version::fast)
                        ops::gate_up_swiglu(exec(), t[0], ragged(s, s.rows).groups(s.through_index),
                                            w, gate_up, h);
                    else
                        reference::gate_up_swiglu(t[0], ragged(s, s.rows).groups(s.through_index),
                                                  w, gate_up, h);
                    return Tensors{gate_up, h};
                },
            .tolerance = swiglu_tolerance(s.type),
            .reason = kSwiglu,
            .flops = 4.0 * static_cast<double>(s.rows * s.n * s.k),
            .bytes = static_cast<double>((s.rows * (3 * s.n + s.k) + 2 * s.groups * s.n * s.k) *
                                         size_of(s.type)),
            .timed = [=](const Tensors& t) -> std::function<void()> {
                const Tensor gate_up = empty_like(s.rows, 2 * s.n, data(s.type));
                const Tensor h = empty_like(s.rows, s.n, data(s.type));
                const PackedWeight w = weight(Version::fast, t[1]);
                return [=] {
                    ops::gate_up_swiglu(exec(), t[0], ragged(s, s.rows).groups(s.through_index), w,
                                        gate_up, h);
                };
            }};
}

// n is F, k is D; down is [E, D, F]. inputs: dy, gate_up, row weights, down.
Tensors down_backward(Version version, const GroupedShape& s, const Ragged& rows, const Tensors& t,
                      const PackedWeight& down) {
    const Tensors out{empty_like(s.rows, 2 * s.n, data(s.type)),
                      empty_like(s.rows, s.n, data(s.type)), empty_like(s.rows, 1, DType::f32)};
    const ops::DownBackward io{.dy = t[0],
                               .rows = rows.groups(s.through_index),
                               .down = down,
                               .gate_up = t[1],
                               .row_weight = t[2],
                               .d_gate_up = out[0],
                               .weighted_h = out[1],
                               .d_row_weight = out[2]};
    if (version == Version::fast)
        ops::down_swiglu_backward(exec(), io);
    else
        reference::down_swiglu_backward(io);
    return out;
}

KernelCase down_backward_case(const GroupedShape& s) {
    return {.name = grouped_name("down_swiglu_backward", s),
            .inputs = {random_tensor({s.rows, s.k}, data(s.type), 62),
                       random_tensor({s.rows, 2 * s.n}, data(s.type), 63),
                       random_tensor({s.rows, 1}, DType::f32, 64),
                       random_tensor({s.groups, s.k, s.n}, DType::f32, 65, 0.2f)},
            .run =
                [=](Version version, const Tensors& t) {
                    return down_backward(version, s, ragged(s, s.rows), t,
                                         packed(version, t[3], PackKind::dgrad, s.type, s.cut));
                },
            .tolerance = swiglu_tolerance(s.type),
            .reason = kSwiglu,
            .flops = 2.0 * static_cast<double>(s.rows * s.n * s.k),
            .bytes = static_cast<double>((s.rows * (5 * s.n + s.k) + s.groups * s.n * s.k) *
                                         size_of(s.type)),
            .timed = [=](const Tensors& t) -> std::function<void()> {
                const PackedWeight down =
                    packed(Version::fast, t[3], PackKind::dgrad, s.type, s.cut);
                return [=] { down_backward(Version::fast, s, ragged(s, s.rows), t, down); };
            }};
}

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

// Whole blocks of 128 and not, widths that no 16 bytes hold, chunks, leaves longer than a block.
void add_fp8(Cases& cases) {
    constexpr DType kType = DType::f8_e4m3;
    for (const auto& [rows, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                     {3, 130, 128},
                                     {33, 70, 31},
                                     {400, 136, 144},
                                     {65, 200, 300}}) {
        cases.kernels.push_back(linear_case({rows, n, k, kType}));
        cases.kernels.push_back(linear_case({rows, n, k, kType, true, true}));
        cases.kernels.push_back(wgrad_case(rows, n, k, kType));
    }
    for (const KCut cut : {KCut{1, 2}, {2, 1}, {2, 2}, {4, 2}}) {
        const int64_t k = 128 * cut.chunks * cut.parts;
        cases.kernels.push_back(linear_case({5, 70, k, kType, false, false, cut}));
        cases.kernels.push_back(linear_case({35, k, 72, kType, true, true, cut}));
    }
    for (const bool index : {false, true})
        for (const GroupedShape& s :
             {GroupedShape{2, 1, 3, 5, kType, index}, GroupedShape{5, 70, 48, 40, kType, index},
              GroupedShape{3, 900, 80, 144, kType, index}}) {
            cases.kernels.push_back(grouped_case(s));
            cases.kernels.push_back(grouped_wgrad_case(s));
            cases.kernels.push_back(gate_up_case(s));
            cases.kernels.push_back(down_backward_case(s));
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
    add_fp8(cases);
    cases.kernels.push_back(linear_case({3, 256, 7168, DType::f32}));
    cases.kernels.push_back(linear_case({3, 2048, 7168, DType::bf16}));
    cases.kernels.push_back(linear_case({2, 7168, 2048, DType::bf16, true}));
    cases.kernels.push_back(gate_up_case({2, 3, 256, 7168, DType::bf16, true}));
    cases.gradients.push_back(expert_gradient());
});

}  // namespace
}  // namespace fucina::test
