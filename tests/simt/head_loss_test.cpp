// The head's loss on CUDA beside the CPU's, with products in the order `fma`: the same bits.
#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/runtime.h"
#include "tests/simt/device.h"
#include "tests/simt/every_order.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

constexpr int64_t kWidth = 40;

class CudaHeadLoss : public testing::TestWithParam<simt::Options> {
  protected:
    CudaHeadLoss() { set_runtime(1, Numerics::exact, ProductOrder::fma); }
    ~CudaHeadLoss() override { set_runtime(0, Numerics::exact); }

  private:
    const simt::OrderScope order_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Each, CudaHeadLoss, testing::ValuesIn(simt::every_order()),
                         simt::order_name);

struct Shape {
    std::vector<int64_t> leaves;
    int64_t vocab, chunks;
    DType type;
    int64_t rows() const { return leaves.back(); }
};

struct Outputs {
    Tensor loss, dx, dw;
    explicit Outputs(const Shape& s)
        : loss(Tensor::empty({s.rows()}, DType::f32)),
          dx(Tensor::empty({s.rows(), kWidth}, s.type)),
          dw(Tensor::empty({s.vocab, kWidth}, DType::f32)) {}
    void expect_same(const Outputs& other, const std::string& what) const {
        EXPECT_TRUE(bit_equal(loss, other.loss)) << "loss " << what;
        EXPECT_TRUE(bit_equal(dx, other.dx)) << "dx " << what;
        EXPECT_TRUE(bit_equal(dw, other.dw)) << "dw " << what;
    }
};

ops::HeadLoss head_loss_of(const Shape& s, const Outputs& out) {
    std::vector<int32_t> labels;
    Random random(4);
    for (int64_t t = 0; t < s.rows(); ++t)
        labels.push_back(t % 7 == 3 ? kIgnoreLabel : static_cast<int32_t>(random.below(s.vocab)));
    return {.x = random_tensor({s.rows(), kWidth}, s.type, 1),
            .labels = tensor_of(kHost, labels),
            .scale = 0.01f,
            .chunks = s.chunks,
            .loss = out.loss,
            .dx = out.dx,
            .dw = out.dw,
            .tree = make_leaf_tree(s.leaves)};
}

Tensor weight(const Shape& s) {
    return random_tensor({s.vocab, kWidth}, DType::f32, 2, 0.5f);
}

void on_cpu(ops::HeadLoss io, const Shape& s) {
    io.head = ops::pack(kHost, weight(s), PackKind::forward, s.type);
    io.head_dgrad =
        ops::pack(kHost, weight(s), PackKind::dgrad, s.type, {.cut = {.chunks = s.chunks}});
    ops::head_loss(kHost, io);
}

Tensor there(const Tensor& x) {
    return x.defined() ? device().clone(x) : x;
}
void on_cuda(const ops::HeadLoss& io, const Shape& s, const Tensor& w) {
    ops::HeadLoss run = io;
    run.head = ops::pack(device(), there(w), PackKind::forward, s.type);
    run.head_dgrad =
        ops::pack(device(), there(w), PackKind::dgrad, s.type, {.cut = {.chunks = io.chunks}});
    for (Tensor* x : {&run.x, &run.labels, &run.loss, &run.dx, &run.dw}) *x = there(*x);
    ops::head_loss(device(), run);
    for (const auto& [from, to] : {std::pair{run.loss, io.loss}, {run.dx, io.dx}, {run.dw, io.dw}})
        if (to.defined()) device().copy(from, to);
}

void expect_cpus_bits(const Shape& s, int64_t rows) {
    const Outputs want(s), got(s), loss_only(s);
    on_cpu(head_loss_of(s, want), s);
    ops::HeadLoss io = head_loss_of(s, got);
    io.rows = rows;
    on_cuda(io, s, weight(s));
    got.expect_same(want, concat(name_of(s.type), " ", s.vocab, ", ", rows, " rows at a time"));
    io = head_loss_of(s, loss_only);
    io.dx = io.dw = {};
    on_cuda(io, s, weight(s));
    EXPECT_TRUE(bit_equal(loss_only.loss, want.loss)) << "loss alone";
}

TEST_P(CudaHeadLoss, HasTheCpusBits) {
    for (const DType type : {DType::bf16, DType::f32}) {
        expect_cpus_bits({{0, 1}, 1, 1, type}, 0);
        expect_cpus_bits({{0, 9, 9, 50, 85}, 204, 4, type}, 0);
        expect_cpus_bits({{0, 9, 9, 50, 85}, 204, 4, type}, 32);  // two passes a leaf
    }
}

// The sum of exponentials takes 16 blocks of 1024 at a time.
TEST_P(CudaHeadLoss, HasTheCpusBitsForManyBlocks) {
    expect_cpus_bits({{0, 2}, 2 * (16 * 1024 + 1300), 2, DType::bf16}, 0);
}

// Ranks with parts of the vocabulary. Each gathers twice; what one gives in a gather comes from
// running it until there, with all that was gathered before.
TEST_P(CudaHeadLoss, RanksMakeTheWhole) {
    struct Enough {};
    for (const DType type : {DType::bf16, DType::f32}) {
        const Shape s{{0, 5, 11}, 132, 4, type};
        constexpr int kRanks = 2;
        const Outputs whole(s);
        on_cpu(head_loss_of(s, whole), s);
        std::vector<Tensor> gathered;
        const auto run = [&](int rank, const Outputs& out, size_t gathers, Tensor* given) {
            ops::HeadLoss io = head_loss_of(s, out);
            size_t next = 0;
            io.ranks = kRanks;
            io.first = rank * s.vocab / kRanks;
            io.chunks = s.chunks / kRanks;
            io.dx = random_tensor({s.rows(), kWidth}, DType::f32, 5);
            io.dw = out.dw.slice(io.first, io.first + s.vocab / kRanks);
            io.gather = [&](const Tensor& own, const Tensor& all) {
                if (next == gathers) {
                    *given = Tensor::empty(own.shape(), DType::f32);
                    device().copy(own, *given);
                    throw Enough();
                }
                device().copy(gathered[next++].view({all.rows(), all.row_size()}), all);
            };
            on_cuda(io, s, weight(s).slice(io.first, io.first + s.vocab / kRanks));
            return io.dx;
        };
        // Two leaves of two gathers each.
        for (size_t gather = 0; gather < 4; ++gather) {
            Tensor given[kRanks];
            for (int rank = 0; rank < kRanks; ++rank)
                EXPECT_THROW(run(rank, Outputs(s), gather, &given[rank]), Enough);
            const Tensor all = Tensor::empty({kRanks * given[0].size()}, DType::f32);
            for (int rank = 0; rank < kRanks; ++rank)
                std::memcpy(all.raw() + rank * given[0].bytes(), given[rank].raw(),
                            static_cast<size_t>(given[0].bytes()));
            gathered.push_back(all);
        }
        const Outputs parts(s);
        const Tensor dx = run(0, parts, 4, nullptr), more = run(1, parts, 4, nullptr);
        for (int64_t t = 0; t < s.rows(); ++t)
            for (int64_t j = 0; j < kWidth; ++j)
                set(parts.dx, t, j, get(dx, t, j) + get(more, t, j));
        parts.expect_same(whole, name_of(type).data());
    }
}

TEST_P(CudaHeadLoss, ALabelOutsideTheVocabularyMakesTheLossNaN) {
    const Shape s{{0, 3}, 50, 1, DType::f32};
    const Outputs out(s);
    const ops::HeadLoss io = head_loss_of(s, out);
    io.labels.data<int32_t>()[1] = 50;
    on_cuda(io, s, weight(s));
    EXPECT_TRUE(std::isnan(get(out.loss, 1, 0)));
    EXPECT_TRUE(std::isfinite(get(out.loss, 2, 0)));
}

}  // namespace
}  // namespace fucina::test
