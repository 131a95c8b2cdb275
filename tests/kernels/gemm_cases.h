// Cases of gemm.h by shape and type of product. Products follow one order, so parity is of bits;
// activations go through exp.
#pragma once
#include "tests/reference/reference.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {

constexpr const char* kOrder = "gemm.h fixes the order of summation";
constexpr const char* kSwiglu = "exp within 2 ulp, F-term sums; in bf16 one rounding step";

inline double swiglu_tolerance(DType type) {
    return type == DType::f32 ? 1e-5 : 8e-3;
}

inline bool is_fp8(DType products) {
    return products == DType::f8_e4m3;
}
// What products in FP8 take, too.
inline DType data(DType products) {
    return is_fp8(products) ? DType::bf16 : products;
}

inline Tensor empty_like(int64_t rows, int64_t columns, DType type) {
    return exec().empty({rows, columns}, type);
}

inline PackedWeight packed(Version version, const Tensor& w, PackKind kind, DType type, KCut cut) {
    if (version == Version::reference) return reference::pack(w, kind, type, {.cut = cut});
    return ops::pack(exec(), w, kind, type, {.cut = cut});
}

inline std::string describe(KCut cut) {
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
inline KernelCase linear_case(const LinearShape& s) {
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

inline LeafTree leaves(int64_t rows) {
    return make_leaf_tree({0, rows / 3, rows / 3, rows});
}

inline KernelCase wgrad_case(int64_t rows, int64_t n, int64_t k, DType type) {
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

inline Ragged ragged(const GroupedShape& s, int64_t sources) {
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

inline std::string grouped_name(const char* op, const GroupedShape& s) {
    return concat(op, " ", name_of(s.type), s.through_index ? " indexed " : " ", s.rows,
                  " rows in ", s.groups, " groups, [", s.n, ", ", s.k, "]", describe(s.cut));
}

inline KernelCase grouped_case(const GroupedShape& s) {
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

inline KernelCase grouped_wgrad_case(const GroupedShape& s) {
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
inline KernelCase gate_up_case(const GroupedShape& s) {
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
inline Tensors down_backward(Version version, const GroupedShape& s, const Ragged& rows,
                             const Tensors& t, const PackedWeight& down) {
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

inline KernelCase down_backward_case(const GroupedShape& s) {
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

}  // namespace fucina::test
