// Guards against sums that depend on their order, and against ones that are rounded more than once.
#include "kernels/exact_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/optimizer.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

double sum(const std::vector<double>& values) {
    ExactSum total;
    for (const double value : values) total.add(value);
    return total.value();
}

TEST(ExactSum, RoundsOnce) {
    const double big = 1e300, tiny = std::numeric_limits<double>::denorm_min();
    const double ulp = std::numeric_limits<double>::epsilon();
    EXPECT_EQ(sum({}), 0);
    EXPECT_EQ(sum({big, 1, -big}), 1);
    EXPECT_EQ(sum({1, tiny, -1}), tiny);
    EXPECT_EQ(sum({tiny, tiny}), 2 * tiny);
    EXPECT_EQ(sum({-1e16, -1, 1e16, -1}), -2);
    EXPECT_EQ(sum({std::numeric_limits<double>::max(), -tiny}), std::numeric_limits<double>::max());
    // Half an ulp is a tie to even; the least bit more is not.
    EXPECT_EQ(sum({1, ulp / 2}), 1);
    EXPECT_EQ(sum({1, ulp / 2, tiny}), 1 + ulp);
    EXPECT_EQ(sum({1 + ulp, ulp / 2}), 1 + 2 * ulp);
    EXPECT_EQ(sum({-1, -ulp / 2, -tiny}), -1 - ulp);
}

TEST(ExactSum, KnowsWhatIsNotFinite) {
    const double infinity = std::numeric_limits<double>::infinity();
    EXPECT_TRUE(std::isnan(sum({1, std::nan("")})));
    EXPECT_TRUE(std::isnan(sum({infinity, -infinity})));
    ExactSum other, all;
    other.add(infinity);
    all.add(other);
    EXPECT_TRUE(std::isnan(all.value()));
}

TEST(ExactSum, OrderAndSharesChangeNothing) {
    std::mt19937_64 random(3);
    std::normal_distribution<double> mantissa;
    std::vector<double> values;
    for (int i = 0; i < 3000; ++i)
        values.push_back(std::ldexp(mantissa(random), static_cast<int>(random() % 200) - 100));
    const double expected = sum(values);
    long double plain = 0;
    for (const double value : values) plain += value;
    EXPECT_NEAR(expected / static_cast<double>(plain), 1, 1e-12);
    for (int repeat = 0; repeat < 20; ++repeat) {
        std::shuffle(values.begin(), values.end(), random);
        EXPECT_EQ(sum(values), expected);
        std::vector<ExactSum> shares(1 + random() % 7);
        for (const double value : values) shares[random() % shares.size()].add(value);
        ExactSum joined, reduced;
        for (const ExactSum& share : shares) joined.add(share);
        EXPECT_EQ(joined.value(), expected);
        // As all_reduce_sum does.
        for (ExactSum& share : shares) {
            const std::span<int64_t> from = share.words(), to = reduced.words();
            for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
        }
        EXPECT_EQ(reduced.value(), expected);
    }
}

TEST(ExactSum, CarriesBeforeItOverflows) {
    ExactSum one, many;
    one.add(std::ldexp(1.0, 52) - 1);
    double expected = std::ldexp(1.0, 52) - 1;
    many.add(one);
    for (int doubling = 0; doubling < 80; ++doubling) {
        const ExactSum copy = many;
        many.add(copy);
        expected *= 2;
        ASSERT_EQ(many.value(), expected) << doubling;
    }
}

// Shards of a tensor have sums that add up to its own, to the last bit.
TEST(SumOfSquares, IsTheSumOfItsShards) {
    const Tensor whole = test::random_tensor({48, 2 * 1100}, DType::f32, 7);
    const double expected = ops::sum_of_squares(kHost, whole, 2).value();
    ExactSum rows, columns;
    for (const int64_t row : {0, 16, 40}) {
        const int64_t end = row == 0 ? 16 : row == 16 ? 40 : 48;
        rows.add(ops::sum_of_squares(kHost, whole.slice(row, end), 2));
    }
    for (const int64_t column : {0, 1100})
        columns.add(ops::sum_of_squares(kHost, whole.columns(column, column + 1100).clone(), 1));
    EXPECT_EQ(rows.value(), expected);
    EXPECT_EQ(columns.value(), expected);
    EXPECT_NE(ops::sum_of_squares(kHost, whole, 1).value(), 0);
}

}  // namespace
}  // namespace fucina
