// Guards against rows that tensor-parallel ranks get in another order, or whose sums depend on how
// many ranks form them.
#include <gtest/gtest.h>

#include <cmath>

#include "parallel/row_shares.h"
#include "parallel/thread_communicator.h"

namespace fucina {
namespace {

float cell(int64_t row, int64_t column) {
    return std::sin(static_cast<float>(17 * row + column));
}

Tensor filled(int64_t rows, int64_t columns, float factor = 1) {
    Tensor x = Tensor::empty({rows, columns}, DType::f32);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) x.row<float>(r)[c] = factor * cell(r, c);
    return x;
}

void expect_same(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.describe(), b.describe());
    for (int64_t r = 0; r < a.rows(); ++r)
        for (int64_t c = 0; c < a.dim(1); ++c)
            EXPECT_EQ(a.row<float>(r)[c], b.row<float>(r)[c]) << r << " " << c;
}

const std::vector<std::vector<int64_t>> kGrains{{0},    {0, 1},    {0, 8},
                                                {0, 7}, {0, 0, 5}, {0, 3, 10, 12}};

TEST(RowShares, AreTheWholeTogether) {
    for (const std::vector<int64_t>& grains : kGrains)
        for (const int ranks : {1, 2, 3, 4})
            run_on_threads(ranks, [&](Communicator& world) {
                const RowShares shares(world, grains);
                const Tensor whole = filled(shares.rows(), 5);
                const Tensor own = shares.own(whole);
                EXPECT_EQ(own.rows(), shares.own_rows());
                expect_same(shares.all(own), whole);
                std::vector<int64_t> rows{own.rows()};
                world.all_reduce_sum(rows);
                EXPECT_EQ(rows[0], shares.rows());
                for (int64_t row = 0; row < own.rows(); ++row) {
                    const auto first = [&](int64_t r) { return whole.row<float>(r)[0]; };
                    int64_t at = 0;
                    while (first(at) != own.row<float>(row)[0]) ++at;
                    EXPECT_EQ(shares.owner(at), world.rank());
                }
            });
}

TEST(RowShares, SumsAreThoseOfTheTree) {
    for (const std::vector<int64_t>& grains : kGrains)
        run_on_threads(4, [&](Communicator& world) {
            const RowShares shares(world, grains);
            const auto factor = [](int rank) { return 1.0f / static_cast<float>(3 + rank); };
            const Tensor sum =
                shares.sum(filled(shares.rows(), 3, factor(world.rank())), DType::f32);
            Tensor expected = Tensor::empty({shares.rows(), 3}, DType::f32);
            for (int64_t r = 0; r < shares.rows(); ++r)
                for (int64_t c = 0; c < 3; ++c) {
                    const float x = cell(r, c);
                    expected.row<float>(r)[c] =
                        (factor(0) * x + factor(1) * x) + (factor(2) * x + factor(3) * x);
                }
            expect_same(sum, shares.own(expected));
        });
}

TEST(RowShares, RowsAreCollectedFromThoseWhoHaveThem) {
    for (const std::vector<int64_t>& grains : kGrains)
        run_on_threads(3, [&](Communicator& world) {
            const RowShares shares(world, grains);
            const Tensor whole = filled(shares.rows(), 4);
            std::vector<int> sources;
            for (int64_t row = 0; row < shares.rows(); ++row)
                sources.push_back(static_cast<int>(row * row % 3));
            std::vector<int64_t> given;
            for (int owner = 0; owner < 3; ++owner)
                for (int64_t row = 0; row < shares.rows(); ++row)
                    if (shares.owner(row) == owner &&
                        sources[static_cast<size_t>(row)] == world.rank())
                        given.push_back(row);
            const Tensor rows = Tensor::empty({std::ssize(given), 4}, DType::f32);
            for (int64_t i = 0; i < std::ssize(given); ++i) {
                const int64_t row = given[static_cast<size_t>(i)];
                kHost.copy(whole.slice(row, row + 1), rows.slice(i, i + 1));
            }
            expect_same(shares.collect(sources, rows), shares.own(whole));
        });
}

}  // namespace
}  // namespace fucina
