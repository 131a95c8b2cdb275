// Products on CUDA beside the CPU's in the order `fma`: the same bits, whatever the schedule.
#include "kernels/cuda/gemm.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "kernels/cpu/gemm.h"
#include "kernels/cuda/gemm_wgmma.h"
#include "kernels/runtime.h"
#include "tests/simt/every_order.h"
#include "tests/simt/guarded.h"

namespace fucina::test {
namespace {

class CudaProducts : public testing::TestWithParam<simt::Options> {
  protected:
    CudaProducts() { set_runtime(1, Numerics::exact, ProductOrder::fma); }
    ~CudaProducts() override { set_runtime(0, Numerics::exact); }

  private:
    const simt::OrderScope order_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Each, CudaProducts, testing::ValuesIn(simt::every_order()),
                         simt::order_name);

constexpr DType kTypes[] = {DType::bf16, DType::f32};

// The CPU's and CUDA's output: the same bits, also where nobody wrote.
struct Outputs {
    Guarded cuda;
    Tensor cpu;
    Outputs(int64_t rows, int64_t columns, DType type)
        : cuda(rows, columns, type), cpu(cuda.view().clone()) {}
    void expect_same(const std::string& what) const {
        EXPECT_TRUE(bit_equal(cuda.view(), cpu)) << what;
        EXPECT_TRUE(cuda.intact()) << what << " wrote outside";
    }
};

struct Shape {
    int64_t rows, n, k;
    KCut cut = {};
};
constexpr Shape kShapes[] = {{0, 8, 8},
                             {1, 1, 1},
                             {3, 70, 7},
                             {65, 130, 33},
                             {67, 64, 48, {4, 1}},
                             {5, 33, 90, {2, 1}},
                             {9, 65, 40, {4, 2}},
                             {64, 64, 16, {1, 2}}};

TEST_P(CudaProducts, LinearHasTheCpusBits) {
    for (const DType type : kTypes)
        for (const Shape& s : kShapes)
            for (const PackKind kind : {PackKind::forward, PackKind::dgrad})
                for (const DType out : {type, DType::f32}) {
                    const Tensor x = with_strided_rows(random_tensor({s.rows, s.k}, type, 1));
                    const Tensor w = kind == PackKind::forward
                                         ? random_tensor({s.n, s.k}, DType::f32, 2)
                                         : random_tensor({s.k, s.n}, DType::f32, 2);
                    const Outputs y(s.rows, s.n, out);
                    const RowGroups rows{.rows = s.rows};
                    cpu::grouped_linear(x, rows, cpu::pack(w, kind, type, {.cut = s.cut}), y.cpu);
                    cuda::grouped_linear(kHost, x, rows,
                                         cuda::pack(kHost, w, kind, type, {.cut = s.cut}), y.cuda);
                    y.expect_same(concat(name_of(type), " ", s.rows, "x", s.n, "x", s.k));
                }
}

// Five groups, the second and the last empty; rows after them are nobody's.
struct Groups {
    static constexpr int64_t kGroups = 5, kRows = 140, kSources = 50;
    Tensor offsets = tensor_of(kHost, std::vector<int64_t>{0, 3, 3, 70, 134, 134});
    // Three leaves each.
    Tensor leaves =
        tensor_of(kHost, std::vector<int64_t>{0,  1,  1,  3,  3,  3,   3,   3,   3,   20,
                                              53, 70, 70, 70, 71, 134, 134, 134, 134, 134})
            .view({kGroups, 4});
    Tensor index;

    Groups() {
        Random random(3);
        std::vector<int32_t> rows;
        for (int64_t i = 0; i < kRows; ++i)
            rows.push_back(static_cast<int32_t>(random.below(kSources)));
        index = tensor_of(kHost, rows);
    }
    RowGroups rows() const { return {kRows, offsets, index}; }
};

TEST_P(CudaProducts, GroupedProductsHaveTheCpusBits) {
    const Groups groups;
    constexpr int64_t kF = 36, kK = 48;
    const PackedWeight cut{.cut = {2, 1}};
    for (const DType type : kTypes) {
        const Tensor x = random_tensor({Groups::kSources, kK}, type, 1);
        const Tensor w = random_tensor({Groups::kGroups, 2 * kF, kK}, DType::f32, 2);
        const Outputs y(Groups::kRows, 2 * kF, type), gate_up(Groups::kRows, 2 * kF, type);
        const Outputs h(Groups::kRows, kF, type), only_h(Groups::kRows, kF, type);
        cpu::grouped_linear(x, groups.rows(), cpu::pack(w, PackKind::forward, type, cut), y.cpu);
        cuda::grouped_linear(kHost, x, groups.rows(),
                             cuda::pack(kHost, w, PackKind::forward, type, cut), y.cuda);
        y.expect_same(concat("linear ", name_of(type)));
        const PackedWeight both = cuda::pack(kHost, w, PackKind::gate_up, type, cut);
        cpu::gate_up_swiglu(x, groups.rows(), cpu::pack(w, PackKind::gate_up, type, cut),
                            gate_up.cpu, h.cpu);
        cuda::gate_up_swiglu(kHost, x, groups.rows(), both, gate_up.cuda, h.cuda);
        gate_up.expect_same(concat("gate_up ", name_of(type)));
        h.expect_same(concat("h ", name_of(type)));
        cuda::gate_up_swiglu(kHost, x, groups.rows(), both, {}, only_h.cuda);
        EXPECT_TRUE(bit_equal(only_h.cuda, h.cpu));
    }
}

TEST_P(CudaProducts, DownBackwardHasTheCpusBits) {
    const Groups groups;
    constexpr int64_t kF = 45, kD = 40, kRows = Groups::kRows;
    for (const DType type : kTypes)
        for (const bool weighted : {true, false}) {
            const Tensor down = random_tensor({Groups::kGroups, kD, kF}, DType::f32, 1);
            const Outputs d_gate_up(kRows, 2 * kF, type), weighted_h(kRows, kF, type);
            const Outputs d_row_weight(kRows, 1, DType::f32);
            const Tensor d_weight = Tensor::empty({kRows}, DType::f32), of_cpu = d_weight.clone();
            ops::DownBackward io{.dy = random_tensor({Groups::kSources, kD}, type, 2),
                                 .rows = groups.rows(),
                                 .down = cpu::pack(down, PackKind::dgrad, type, {}),
                                 .gate_up = random_tensor({kRows, 2 * kF}, type, 3),
                                 .d_gate_up = d_gate_up.cpu,
                                 .weighted_h = weighted_h.cpu};
            if (weighted) {
                io.row_weight = random_tensor({kRows, 1}, DType::f32, 4).flat();
                io.d_row_weight = of_cpu;
            }
            cpu::down_swiglu_backward(io);
            io.down = cuda::pack(kHost, down, PackKind::dgrad, type, {});
            io.d_gate_up = d_gate_up.cuda;
            io.weighted_h = weighted_h.cuda;
            if (weighted) io.d_row_weight = d_weight;
            cuda::down_swiglu_backward(kHost, io);
            d_gate_up.expect_same(concat("d_gate_up ", name_of(type)));
            weighted_h.expect_same(concat("weighted_h ", name_of(type)));
            EXPECT_TRUE(!weighted || bit_equal(d_weight, of_cpu)) << name_of(type);
        }
}

TEST_P(CudaProducts, WeightGradientsHaveTheCpusBits) {
    LeafTree uneven = make_leaf_tree({0, 17, 17, 40, 41, 75});
    uneven.merges = {0, 0, 0, 1, 3};  // no balanced tree
    const LeafTree trees[] = {make_leaf_tree({0}), make_leaf_tree({0, 75}),
                              make_leaf_tree({0, 30, 30, 31, 75}), uneven};
    for (const DType type : kTypes)
        for (const LeafTree& tree : trees) {
            const Tensor dy = with_strided_rows(random_tensor({tree.rows(), 70}, type, 1));
            const Tensor x = with_strided_rows(random_tensor({tree.rows(), 33}, type, 2));
            const Tensor dw = Tensor::empty({70, 33}, DType::f32), want = dw.clone();
            cpu::linear_wgrad(dy, x, tree, want);
            cuda::linear_wgrad(kHost, dy, x, tree, dw);
            EXPECT_TRUE(bit_equal(dw, want)) << name_of(type) << " " << tree.leaves() << " leaves";
        }
}

// As head_loss has it, which takes a leaf some rows at a time.
TEST_P(CudaProducts, ALeafGoesOnWhereItStopped) {
    for (const DType type : kTypes) {
        const Tensor dy = random_tensor({75, 70}, type, 1), x = random_tensor({75, 33}, type, 2);
        const Tensor dw = Tensor::empty({70, 33}, DType::f32), want = dw.clone();
        cpu::linear_wgrad(dy, x, make_leaf_tree({0, 75}), want);
        cuda::leaf_wgrad(kHost, dy.slice(0, 50), x.slice(0, 50), false, dw);
        cuda::leaf_wgrad(kHost, dy.slice(50, 75), x.slice(50, 75), true, dw);
        EXPECT_TRUE(bit_equal(dw, want)) << name_of(type);
    }
}

TEST_P(CudaProducts, GroupedWeightGradientsHaveTheCpusBits) {
    const Groups groups;
    for (const DType type : kTypes)
        for (const Numerics numerics : {Numerics::exact, Numerics::fast}) {
            const Tensor dy = random_tensor({Groups::kRows, 66}, type, 1);
            const Tensor x = random_tensor({Groups::kSources, 40}, type, 2);
            const ops::GroupedWgrad in{
                .dy = dy, .x = x, .x_index = groups.index, .leaves = groups.leaves};
            const Tensor dw = Tensor::empty({Groups::kGroups, 66, 40}, DType::f32);
            const Tensor want = dw.clone();
            set_runtime(1, numerics, ProductOrder::fma);
            cuda::grouped_linear_wgrad(kHost, in, dw);
            if (numerics == Numerics::fast) {  // one leaf
                const Tensor whole = Tensor::empty({Groups::kGroups, 2}, DType::i64);
                for (int64_t g = 0; g < Groups::kGroups; ++g)
                    for (const int i : {0, 1})
                        whole.row<int64_t>(g)[i] = groups.leaves.row<int64_t>(g)[3 * i];
                set_runtime(1, Numerics::exact, ProductOrder::fma);
                cpu::grouped_linear_wgrad(
                    {.dy = dy, .x = x, .x_index = groups.index, .leaves = whole}, want);
            } else {
                cpu::grouped_linear_wgrad(in, want);
            }
            EXPECT_TRUE(bit_equal(dw.flat(), want.flat())) << name_of(type);
        }
}

// Fast numerics: the tensor cores' sums, and what they cannot take on CUDA cores.
class FastProducts : public testing::TestWithParam<simt::Options> {
  protected:
    FastProducts() { set_runtime(1, Numerics::exact, ProductOrder::fma); }
    ~FastProducts() override { set_runtime(0, Numerics::exact); }
    template <class Body>
    static void fast(const Body& body) {
        set_runtime(1, Numerics::fast);
        body();
        set_runtime(1, Numerics::exact, ProductOrder::fma);
    }

  private:
    const simt::OrderScope order_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Each, FastProducts, testing::ValuesIn(simt::every_order()),
                         simt::order_name);

// One rounding step in bf16, of the largest; in fp32 some of the order of sums.
void expect_near(const Outputs& y, int64_t rows, const std::string& what) {
    const double tolerance = y.cpu.dtype() == DType::bf16 ? 0x1p-8 : 1e-5;
    EXPECT_LE(relative_error(y.cuda.view().slice(0, rows), y.cpu.slice(0, rows)), tolerance)
        << what;
    EXPECT_TRUE(y.cuda.intact()) << what << " wrote outside";
    EXPECT_TRUE(bit_equal(y.cuda.view().slice(rows, y.cpu.rows()), y.cpu.slice(rows, y.cpu.rows())))
        << what << " wrote rows that no group has";
}

TEST_P(FastProducts, LinearOnTensorCores) {
    for (const Shape& s : {Shape{1, 4, 8}, {130, 136, 200}, {64, 260, 520, {2, 1}}})
        for (const DType out : {DType::bf16, DType::f32}) {
            const Tensor x = with_strided_rows(random_tensor({s.rows, s.k}, DType::bf16, 1));
            const Tensor w = random_tensor({s.n, s.k}, DType::f32, 2);
            const RowGroups rows{.rows = s.rows};
            const Outputs y(s.rows, s.n, out);
            cpu::grouped_linear(x, rows, cpu::pack(w, PackKind::forward, DType::bf16, {}), y.cpu);
            const PackedWeight packed =
                cuda::pack(kHost, w, PackKind::forward, DType::bf16, {.cut = s.cut});
            fast([&] {
                EXPECT_TRUE(
                    cuda::wgmma_product(kHost, {.x = x, .rows = rows, .w = packed, .y = y.cuda}));
            });
            expect_near(y, s.rows, concat(s.rows, "x", s.n, "x", s.k));
        }
}

TEST_P(FastProducts, GroupedOnTensorCores) {
    const Groups groups;
    constexpr int64_t kF = 68, kK = 136, kUsed = 134;
    const Tensor w = random_tensor({Groups::kGroups, 2 * kF, kK}, DType::f32, 2);
    for (const bool index : {true, false}) {
        RowGroups rows = groups.rows();
        if (!index) rows.index = {};
        const Tensor x = random_tensor({Groups::kRows, kK}, DType::bf16, 1);
        const Outputs y(Groups::kRows, 2 * kF, DType::bf16);
        const Outputs gate_up(Groups::kRows, 2 * kF, DType::bf16);
        const Outputs h(Groups::kRows, kF, DType::bf16), only_h(Groups::kRows, kF, DType::bf16);
        cpu::grouped_linear(x, rows, cpu::pack(w, PackKind::forward, DType::bf16, {}), y.cpu);
        const PackedWeight both = cpu::pack(w, PackKind::gate_up, DType::bf16, {});
        cpu::gate_up_swiglu(x, rows, both, gate_up.cpu, h.cpu);
        cpu::gate_up_swiglu(x, rows, both, {}, only_h.cpu);
        const PackedWeight plain = cuda::pack(kHost, w, PackKind::forward, DType::bf16, {});
        const PackedWeight fused = cuda::pack(kHost, w, PackKind::gate_up, DType::bf16, {});
        fast([&] {
            cuda::grouped_linear(kHost, x, rows, plain, y.cuda);
            cuda::gate_up_swiglu(kHost, x, rows, fused, gate_up.cuda, h.cuda);
            cuda::gate_up_swiglu(kHost, x, rows, fused, {}, only_h.cuda);
        });
        expect_near(y, kUsed, "linear");
        expect_near(gate_up, kUsed, "gate_up");
        expect_near(h, kUsed, "h");
        expect_near(only_h, kUsed, "h alone");
    }
}

// 200 tokens, of which the last 8 are in a box that ends with none; a leaf that goes on.
TEST_P(FastProducts, WeightGradientsOnTensorCores) {
    for (const auto& [rows, n, k] :
         {std::array<int64_t, 3>{1, 4, 2}, {200, 136, 200}, {450, 8, 70}}) {
        const Tensor dy = random_tensor({rows, n + 8 - n % 8}, DType::bf16, 1).columns(0, n);
        const Tensor x = random_tensor({rows, k + 8 - k % 8}, DType::bf16, 2).columns(0, k);
        const Tensor dw = Tensor::empty({n, k}, DType::f32), want = dw.clone();
        cpu::linear_wgrad(dy, x, make_leaf_tree({0, rows}), want);
        fast([&] { EXPECT_TRUE(cuda::wgmma_wgrad(kHost, {.in = {.dy = dy, .x = x}, .dw = dw})); });
        EXPECT_LE(relative_error(dw, want), 1e-5) << rows << " rows";
        cpu::leaf_wgrad(dy, x, true, want);
        fast([&] { cuda::leaf_wgrad(kHost, dy, x, true, dw); });
        EXPECT_LE(relative_error(dw, want), 1e-5) << rows << " rows twice";
    }
}

// Rows that no group has are NaN here.
TEST_P(FastProducts, GroupedWeightGradientsOnTensorCores) {
    const Groups groups;
    for (const bool index : {true, false}) {
        const Tensor dy = random_tensor({Groups::kRows, 136}, DType::bf16, 1);
        const Tensor x = random_tensor({Groups::kRows, 72}, DType::bf16, 2);
        for (int64_t j = 0; j < 72; ++j) set(dy, 139, j, NAN), set(dy, 134, j, NAN);
        const ops::GroupedWgrad in{
            .dy = dy, .x = x, .x_index = index ? groups.index : Tensor(), .leaves = groups.leaves};
        const Tensor dw = Tensor::empty({Groups::kGroups, 136, 72}, DType::f32), want = dw.clone();
        cpu::grouped_linear_wgrad(in, want);
        fast([&] { EXPECT_TRUE(cuda::wgmma_wgrad(kHost, {.in = in, .dw = dw})); });
        const auto matrix = [](const Tensor& t) { return t.view({Groups::kGroups * 136, 72}); };
        EXPECT_LE(relative_error(matrix(dw), matrix(want)), 1e-5);
    }
}

// K that TMA cannot read, an odd number of columns, fp32.
TEST_P(FastProducts, OthersOnCudaCores) {
    for (const auto& [n, k, type] : {std::tuple<int64_t, int64_t, DType>{8, 12, DType::bf16},
                                     {7, 16, DType::bf16},
                                     {8, 16, DType::f32}}) {
        const Tensor x = random_tensor({5, k}, type, 1), w = random_tensor({n, k}, DType::f32, 2);
        const Outputs y(5, n, type);
        cpu::grouped_linear(x, {.rows = 5}, cpu::pack(w, PackKind::forward, type, {}), y.cpu);
        const PackedWeight packed = cuda::pack(kHost, w, PackKind::forward, type, {});
        fast([&] { cuda::grouped_linear(kHost, x, {.rows = 5}, packed, y.cuda); });
        y.expect_same(concat(n, "x", k));
    }
}

}  // namespace
}  // namespace fucina::test
