// Matrix products against the reference: bit for bit, on every instruction set this CPU has, with
// one and two threads.
#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/optimizer.h"
#include "kernels/runtime.h"
#include "tests/kernels/levels.h"
#include "tests/reference/reference.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

using test::bit_equal;
using test::for_each_level;
using test::get;
using test::random_tensor;

using GemmOrders = test::EveryOrder;
INSTANTIATE_TEST_SUITE_P(Each, GemmOrders, test::offered_orders(), test::order_name);

constexpr DType kTypes[] = {DType::bf16, DType::f32};

// A matrix whose row stride is larger than its width.
Tensor strided(std::initializer_list<int64_t> shape, DType type, uint64_t seed) {
    const int64_t rows = *shape.begin(), columns = *(shape.begin() + 1);
    return random_tensor({rows, columns + 24}, type, seed).columns(8, 8 + columns);
}

double largest_error(const Tensor& a, const Tensor& b) {
    double worst = 0;
    for (int64_t i = 0; i < a.rows(); ++i)
        for (int64_t j = 0; j < a.row_size(); ++j) {
            const double error = std::abs(double{get(a, i, j)} - get(b, i, j));
            worst = std::max(worst, error / (1 + std::abs(double{get(b, i, j)})));
        }
    return worst;
}

struct Shape {
    int64_t rows, n, k;
};

TEST_P(GemmOrders, LinearHasTheReferencesBits) {
    const Shape shapes[] = {{0, 32, 32},   {1, 8, 7},     {1, 96, 512},
                            {31, 33, 31},  {32, 32, 64},  {33, 100, 33},
                            {65, 17, 600}, {150, 40, 96}, {7, 300, 1100}};
    for (const DType type : kTypes)
        for (const Shape& s : shapes) {
            const Tensor x = strided({s.rows, s.k}, type, 1);
            const Tensor w = random_tensor({s.n, s.k}, DType::f32, 2);
            for (const DType out : {type, DType::f32}) {
                const Tensor want = Tensor::empty({s.rows, s.n}, out);
                reference::linear(x, reference::pack(w, PackKind::forward, type), want);
                for_each_level([&](std::string_view level) {
                    const Tensor y = strided({s.rows, s.n}, out, 3);
                    ops::linear(kHost, x, ops::pack(kHost, w, PackKind::forward, type), y);
                    EXPECT_TRUE(bit_equal(y, want)) << level << " " << name_of(type) << " "
                                                    << s.rows << "x" << s.n << "x" << s.k;
                });
            }
        }
}

TEST_P(GemmOrders, DgradHasTheReferencesBits) {
    for (const DType type : kTypes)
        for (const Shape& s : {Shape{33, 70, 45}, Shape{5, 32, 64}}) {
            const Tensor dy = random_tensor({s.rows, s.n}, type, 1);
            const Tensor w = random_tensor({s.n, s.k}, DType::f32, 2);
            const Tensor want = Tensor::empty({s.rows, s.k}, type);
            reference::linear(dy, reference::pack(w, PackKind::dgrad, type), want);
            for_each_level([&](std::string_view level) {
                const Tensor dx = Tensor::empty({s.rows, s.k}, type);
                ops::linear(kHost, dy, ops::pack(kHost, w, PackKind::dgrad, type), dx);
                EXPECT_TRUE(bit_equal(dx, want)) << level << " " << name_of(type);
            });
        }
}

TEST_P(GemmOrders, DenormalsInfinitiesAndNansAsTheReference) {
    const float odd[] = {1e-39f, -3e-39f, 1e-20f, -1e-20f, 2e-25f, 1.0f, -0.0f, 3e38f};
    for (const DType type : kTypes) {
        const Tensor x = Tensor::empty({8, 64}, type), w = Tensor::empty({40, 64}, DType::f32);
        for (int64_t i = 0; i < 64; ++i) {
            for (int64_t t = 0; t < 8; ++t) test::set(x, t, i, odd[(t * 3 + i) % 7]);
            for (int64_t n = 0; n < 40; ++n) test::set(w, n, i, odd[(n * 5 + i) % 7]);
        }
        test::set(x, 5, 3, std::numeric_limits<float>::infinity());
        test::set(x, 6, 40, 3e38f);
        const Tensor want = Tensor::empty({8, 40}, DType::f32);
        reference::linear(x, reference::pack(w, PackKind::forward, type), want);
        for_each_level([&](std::string_view level) {
            const Tensor y = Tensor::empty({8, 40}, DType::f32);
            ops::linear(kHost, x, ops::pack(kHost, w, PackKind::forward, type), y);
            for (int64_t t = 0; t < 8; ++t)
                for (int64_t n = 0; n < 40; ++n)
                    EXPECT_TRUE(get(y, t, n) == get(want, t, n) ||
                                (std::isnan(get(y, t, n)) && std::isnan(get(want, t, n))))
                        << level << " " << t << "," << n;
        });
    }
}

TEST_P(GemmOrders, WgradHasTheReferencesBits) {
    const std::vector<std::vector<int64_t>> leaves = {
        {0},           {0, 0},          {0, 1},
        {0, 31},       {0, 32, 65},     {0, 33, 33, 90},
        {0, 600, 640}, {0, 5, 37, 100}, {0, 8, 16, 24, 32, 40, 48, 56, 64},
        {0, 1900}};  // which goes in two spans
    for (const DType type : kTypes)
        for (const auto& offsets : leaves)
            for (const Shape& s : {Shape{0, 33, 70}, Shape{0, 200, 31}}) {
                const LeafTree tree = make_leaf_tree(offsets);
                const Tensor dy = strided({tree.rows(), s.n}, type, 1);
                const Tensor x = strided({tree.rows(), s.k}, type, 2);
                const Tensor want = Tensor::empty({s.n, s.k}, DType::f32);
                reference::linear_wgrad(dy, x, tree, want);
                for_each_level([&](std::string_view level) {
                    const Tensor dw = random_tensor({s.n, s.k}, DType::f32, 3);
                    ops::linear_wgrad(kHost, dy, x, tree, dw);
                    EXPECT_TRUE(bit_equal(dw, want))
                        << level << " " << name_of(type) << " " << tree.leaves() << " leaves of "
                        << tree.rows() << " rows";
                });
            }
}

TEST_P(GemmOrders, TheRowsOfALeafMayComeInPieces) {
    for (const DType type : kTypes) {
        const Tensor dy = random_tensor({110, 40}, type, 1), x = random_tensor({110, 50}, type, 2);
        const Tensor want = Tensor::empty({40, 50}, DType::f32);
        reference::linear_wgrad(dy, x, make_leaf_tree({0, 110}), want);
        for_each_level([&](std::string_view level) {
            const Tensor dw = random_tensor({40, 50}, DType::f32, 3);
            cpu::leaf_wgrad(dy.slice(0, 64), x.slice(0, 64), false, dw);
            cpu::leaf_wgrad(dy.slice(64, 110), x.slice(64, 110), true, dw);
            EXPECT_TRUE(bit_equal(dw, want)) << level << " " << name_of(type);
        });
    }
}

// Four experts of 33, 0, 1 and 70 rows, taken from 50 tokens through an index.
struct Experts {
    Tensor offsets = tensor_of(kHost, std::vector<int64_t>{0, 33, 33, 34, 104});
    Tensor leaves =
        tensor_of(kHost, std::vector<int64_t>{0, 20, 33, 33, 33, 33, 33, 33, 34, 34, 73, 104})
            .view({4, 3});
    Tensor index;
    Experts() {
        test::Random random(9);
        std::vector<int32_t> rows;
        for (int i = 0; i < 104; ++i) rows.push_back(static_cast<int32_t>(random.below(50)));
        index = tensor_of(kHost, rows);
    }
    RowGroups rows(bool indexed) const { return {104, offsets, indexed ? index : Tensor()}; }
};

TEST_P(GemmOrders, GroupedProductsHaveTheReferencesBits) {
    const Experts experts;
    for (const DType type : kTypes)
        for (const bool indexed : {false, true}) {
            const Tensor x = strided({indexed ? 50 : 104, 72}, type, 1);
            const Tensor w = random_tensor({4, 50, 72}, DType::f32, 2);
            const Tensor dy = random_tensor({indexed ? 50 : 104, 50}, type, 3);
            const Tensor want = Tensor::empty({104, 50}, type);
            const Tensor want_dw = Tensor::empty({4, 50, 72}, DType::f32);
            const Tensor index = indexed ? experts.index : Tensor();
            const ops::GroupedWgrad wgrad{
                .dy = dy, .dy_index = index, .x = x, .x_index = index, .leaves = experts.leaves};
            reference::grouped_linear(x, experts.rows(indexed),
                                      reference::pack(w, PackKind::forward, type), want);
            reference::grouped_linear_wgrad(wgrad, want_dw);
            for_each_level([&](std::string_view level) {
                const Tensor y = Tensor::empty({104, 50}, type);
                const Tensor dw = random_tensor({4, 50, 72}, DType::f32, 4);
                ops::grouped_linear(kHost, x, experts.rows(indexed),
                                    ops::pack(kHost, w, PackKind::forward, type), y);
                ops::grouped_linear_wgrad(kHost, wgrad, dw);
                EXPECT_TRUE(bit_equal(y, want)) << level << " " << name_of(type);
                EXPECT_TRUE(bit_equal(dw, want_dw)) << level << " " << name_of(type);
            });
        }
}

// The products are exact; sigmoid differs from libm's by a few units in the last place, which may
// move a result to the neighbouring bf16: 2^-8 relative. fp32: 2^-20.
double swiglu_tolerance(DType type) {
    return type == DType::bf16 ? 0x1p-8 : 0x1p-20;
}

TEST_P(GemmOrders, SwigluAndItsBackwardAgreeWithTheReference) {
    const Experts experts;
    std::vector<float> weight(104);
    for (size_t i = 0; i < weight.size(); ++i) weight[i] = 0.1f + 0.01f * static_cast<float>(i);
    for (const DType type : kTypes)
        for (const int64_t ffn : {int64_t{24}, int64_t{64}}) {
            const Tensor x = random_tensor({50, 40}, type, 1, 0.5f);
            const Tensor w = random_tensor({4, 2 * ffn, 40}, DType::f32, 2, 0.3f);
            const Tensor down = random_tensor({4, 40, ffn}, DType::f32, 3, 0.3f);
            const Tensor gate_up = Tensor::empty({104, 2 * ffn}, type);
            const Tensor h = Tensor::empty({104, ffn}, type);
            const Tensor d_gate_up = Tensor::empty({104, 2 * ffn}, type);
            const Tensor weighted_h = Tensor::empty({104, ffn}, type);
            const Tensor d_weight = Tensor::empty({104}, DType::f32);
            reference::gate_up_swiglu(x, experts.rows(true),
                                      reference::pack(w, PackKind::gate_up, type), gate_up, h);
            ops::DownBackward io{.dy = x,
                                 .rows = experts.rows(true),
                                 .down = reference::pack(down, PackKind::dgrad, type),
                                 .gate_up = gate_up,
                                 .row_weight = tensor_of(kHost, weight),
                                 .d_gate_up = d_gate_up,
                                 .weighted_h = weighted_h,
                                 .d_row_weight = d_weight};
            reference::down_swiglu_backward(io);
            std::vector<Tensor> first;  // of all levels, which must agree bit for bit
            for_each_level([&](std::string_view level) {
                const std::vector<Tensor> out = {
                    Tensor::empty({104, 2 * ffn}, type), Tensor::empty({104, ffn}, type),
                    Tensor::empty({104, 2 * ffn}, type), Tensor::empty({104, ffn}, type),
                    Tensor::empty({104, 1}, DType::f32)};
                ops::gate_up_swiglu(kHost, x, experts.rows(true),
                                    ops::pack(kHost, w, PackKind::gate_up, type), out[0], out[1]);
                io.down = ops::pack(kHost, down, PackKind::dgrad, type);
                io.d_gate_up = out[2];
                io.weighted_h = out[3];
                io.d_row_weight = out[4];
                ops::down_swiglu_backward(kHost, io);
                EXPECT_TRUE(bit_equal(out[0], gate_up)) << level;
                EXPECT_LE(largest_error(out[1], h), swiglu_tolerance(type)) << level;
                EXPECT_LE(largest_error(out[2], d_gate_up), swiglu_tolerance(type)) << level;
                EXPECT_LE(largest_error(out[3], weighted_h), swiglu_tolerance(type)) << level;
                for (int64_t i = 0; i < 104;
                     ++i)  // a sum of ffn terms of order 1, in another order
                    EXPECT_NEAR(
                        get(out[4], i, 0), get(d_weight, i, 0),
                        (type == DType::bf16 ? 1e-2 : 1e-4) * (1 + std::abs(get(d_weight, i, 0))))
                        << level;
                if (first.empty()) first = out;
                for (size_t i = 0; i < out.size(); ++i)
                    EXPECT_TRUE(bit_equal(out[i], first[i])) << level << " output " << i;
            });
        }
}

TEST_P(GemmOrders, ARowDependsNeitherOnItsPositionNorOnTheOthers) {
    const Tensor x = random_tensor({70, 160}, DType::bf16, 1);
    const Tensor w = random_tensor({96, 160}, DType::f32, 2);
    for_each_level([&](std::string_view level) {
        const PackedWeight packed = ops::pack(kHost, w, PackKind::forward, DType::bf16);
        const Tensor all = Tensor::empty({70, 96}, DType::bf16);
        ops::linear(kHost, x, packed, all);
        for (const int64_t row : {0, 1, 33, 69}) {
            const Tensor one = Tensor::empty({1, 96}, DType::bf16);
            ops::linear(kHost, x.slice(row, row + 1), packed, one);
            EXPECT_TRUE(bit_equal(one, all.slice(row, row + 1))) << level << " row " << row;
        }
    });
}

// Numerics::fast may sum in another order (VDPBF16PS), in fp32 all the same: outputs of about 20
// with 600 terms of rounding error 2^-24 each. It still depends on nothing but the row.
TEST(Gemm, FastAgreesWithinRoundingAndDependsOnTheRowAlone) {
    const Tensor x = strided({75, 600}, DType::bf16, 1), dy = strided({75, 70}, DType::bf16, 2);
    const Tensor w = random_tensor({70, 600}, DType::f32, 3);
    const LeafTree tree = make_leaf_tree({0, 33, 75});
    const Tensor want = Tensor::empty({75, 70}, DType::f32);
    const Tensor want_dw = Tensor::empty({70, 600}, DType::f32);
    reference::linear(x, reference::pack(w, PackKind::forward, DType::bf16), want);
    reference::linear_wgrad(dy, x, tree, want_dw);
    std::string before;
    Tensor y_before, dw_before;
    for_each_level(
        [&](std::string_view level) {
            const PackedWeight packed = ops::pack(kHost, w, PackKind::forward, DType::bf16);
            const Tensor y = Tensor::empty({75, 70}, DType::f32);
            const Tensor dw = Tensor::empty({70, 600}, DType::f32);
            ops::linear(kHost, x, packed, y);
            ops::linear_wgrad(kHost, dy, x, tree, dw);
            EXPECT_LE(largest_error(y, want), 1e-4) << level;
            EXPECT_LE(largest_error(dw, want_dw), 1e-4) << level;
            const Tensor one = Tensor::empty({1, 70}, DType::f32);
            ops::linear(kHost, x.slice(41, 42), packed, one);
            EXPECT_TRUE(bit_equal(one, y.slice(41, 42))) << level;
            const std::string name(level.substr(0, level.find(',')));
            if (name == before) {
                EXPECT_TRUE(bit_equal(y, y_before)) << level;
                EXPECT_TRUE(bit_equal(dw, dw_before)) << level;
            }
            before = name;
            y_before = y;
            dw_before = dw;
        },
        Numerics::fast);
}

TEST(Gemm, PackReusesItsStorage) {
    const Tensor w = random_tensor({64, 64}, DType::f32, 1);
    PackedWeight first = ops::pack(kHost, w, PackKind::forward, DType::bf16);
    const void* storage = first.storage.raw();
    EXPECT_EQ(ops::pack(kHost, w, PackKind::dgrad, DType::bf16, std::move(first)).storage.raw(),
              storage);
}

TEST(Gemm, WrongShapesAreRefused) {
    const Tensor x = random_tensor({4, 32}, DType::bf16, 1);
    const Tensor w = random_tensor({8, 64}, DType::f32, 2);
    const Tensor y = Tensor::empty({4, 8}, DType::bf16);
    EXPECT_THROW(ops::linear(kHost, x, ops::pack(kHost, w, PackKind::forward, DType::bf16), y),
                 Error);
    EXPECT_THROW(ops::pack(kHost, x, PackKind::forward, DType::bf16), Error);
}

}  // namespace
struct CopiesCase {
    int64_t groups, n, k;
    PackKind kind;
    KCut forward = {}, dgrad = {};
};

// AdamW remakes a weight's copies as it goes: they must be those of pack().
void expect_copies_of_pack(const CopiesCase& c, DType type) {
    const Tensor w = random_tensor({c.groups, c.n, c.k}, DType::f32, 60);
    const Tensor grad = random_tensor({c.groups, c.n, c.k}, DType::f32, 61);
    const Tensor m = random_tensor({c.groups, c.n, c.k}, DType::f32, 62);
    const Tensor v = Tensor::zeros({c.groups, c.n, c.k}, DType::f32);
    const AdamW step{.learning_rate = 0.01f};
    const Tensor alone = w.clone();
    ops::adamw(kHost, step, alone, grad, m.clone(), v.clone());
    const auto copy = [&](PackKind kind) {
        return ops::pack(kHost, w, kind, type,
                         {.cut = kind == PackKind::dgrad ? c.dgrad : c.forward});
    };
    PackedCopies copies{.kind = c.kind, .forward = copy(c.kind), .dgrad = copy(PackKind::dgrad)};
    ops::adamw(kHost, step, w, grad, m, v, &copies);
    const auto same = [](const Tensor& a, const Tensor& b) {
        return a.bytes() == b.bytes() &&
               std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
    };
    const std::string what =
        concat(c.groups, " x ", c.n, " x ", c.k, " ", name_of(type), ", chunks ", c.dgrad.chunks);
    EXPECT_TRUE(same(w, alone)) << what;
    if (type == DType::bf16 ||
        c.k % (32 * c.forward.chunks) == 0) {  // fp32 panels leave the rows after k as they were
        EXPECT_TRUE(same(copies.forward.storage, copy(c.kind).storage)) << what;
    }
    EXPECT_TRUE(same(copies.dgrad.storage, copy(PackKind::dgrad).storage)) << what;
}

TEST(AdamWWithCopies, AreThoseOfPack) {
    const CopiesCase cases[] = {{1, 40, 72, PackKind::forward},  // partial stripes and panels
                                {3, 64, 96, PackKind::forward},
                                {2, 128, 40, PackKind::gate_up},
                                {2, 80, 33, PackKind::gate_up},  // halves of 40: no whole stripes
                                {3, 128, 256, PackKind::forward, {4, 1}, {4, 1}},
                                {2, 256, 64, PackKind::gate_up, {2, 1}, {4, 2}},
                                {2, 192, 72, PackKind::gate_up, {4, 1}, {1, 2}},
                                {1, 80, 64, PackKind::forward, {2, 1}, {2, 1}},    // chunks of 40
                                {2, 128, 40, PackKind::gate_up, {1, 1}, {4, 2}}};  // of 16
    for_each_level([&](std::string_view level) {
        SCOPED_TRACE(level);
        for (const CopiesCase& c : cases)
            for (const DType type : kTypes) expect_copies_of_pack(c, type);
    });
}

}  // namespace fucina
