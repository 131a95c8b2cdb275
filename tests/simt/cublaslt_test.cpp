// The cuBLASLt wrapper under the SIMT model: its argument rules, and row-major meaning. What the
// library itself computes is not tested here.
#include "kernels/cuda/cublaslt.h"

#include <gtest/gtest.h>

#include "tests/simt/guarded.h"

namespace fucina {
namespace {

using test::Guarded;

// Small integers: every product and sum is exact, in any order.
Tensor integers(int64_t rows, int64_t columns, uint64_t seed) {
    const Tensor x = Tensor::empty({rows, columns}, DType::bf16);
    test::Random random(seed);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            test::set(x, i, j, static_cast<float>(random.below(9) - 4));
    return x;
}

float dot(const Tensor& x, int64_t i, const Tensor& w, int64_t j) {
    float sum = 0;
    for (int64_t k = 0; k < x.row_size(); ++k) sum += test::get(x, i, k) * test::get(w, j, k);
    return sum;
}

struct Shape {
    int64_t m, n, k;
};
// Rows of DeepSeek-V3's q_a projection (N cut down), one token, odd M, one column, nothing.
constexpr Shape kShapes[] = {{3, 48, 7168}, {1, 512, 128}, {37, 24, 40}, {5, 8, 8}, {0, 16, 16}};

void check_product(Shape shape, DType type, bool accumulate) {
    SCOPED_TRACE(concat(shape.m, " x ", shape.n, " x ", shape.k, " ", name_of(type)));
    const Tensor x = test::with_strided_rows(integers(shape.m, shape.k, 1));
    const Tensor w = integers(shape.n, shape.k, 2);
    const Guarded y(shape.m, shape.n, type);
    if (accumulate)
        for (int64_t i = 0; i < shape.m; ++i)
            for (int64_t j = 0; j < shape.n; ++j) test::set(y, i, j, static_cast<float>(i - j));
    cuda::CublasLt library;
    library.linear({.x = x, .w = w, .y = y, .accumulate = accumulate}, nullptr);
    for (int64_t i = 0; i < shape.m; ++i)
        for (int64_t j = 0; j < shape.n; ++j) {
            const float sum = dot(x, i, w, j) + (accumulate ? static_cast<float>(i - j) : 0.0f);
            const float want = type == DType::bf16 ? to_float(to_bfloat16(sum)) : sum;
            ASSERT_EQ(test::get(y, i, j), want) << i << ", " << j;
        }
    EXPECT_TRUE(y.intact());
}

TEST(CublasLt, MultipliesByTheTranspose) {
    for (const Shape shape : kShapes) {
        check_product(shape, DType::bf16, false);
        check_product(shape, DType::f32, false);
        check_product(shape, DType::f32, true);
    }
}

// The message of the refusal, "" if there was none.
std::string refusal(const cuda::LinearTn& io) {
    try {
        cuda::CublasLt().linear(io, nullptr);
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

TEST(CublasLt, RefusesWhatTheLibraryCannotDoFast) {
    const auto bf16 = [](int64_t m, int64_t n) { return Tensor::zeros({m, n}, DType::bf16); };
    const Tensor x = bf16(4, 32), w = bf16(16, 32), y = bf16(4, 16);
    EXPECT_EQ(refusal({.x = x, .w = w, .y = y}), "");
    const auto expect = [](const std::string& message, const char* part) {
        EXPECT_NE(message.find(part), std::string::npos) << "'" << message << "' lacks " << part;
    };
    expect(refusal({.x = bf16(4, 24), .w = w, .y = y}), "times the transpose of w BF16 [16, 32]");
    expect(refusal({.x = x, .w = w, .y = bf16(5, 16)}), "y BF16 [5, 16] = x BF16 [4, 32]");
    expect(refusal({.x = bf16(4, 36), .w = bf16(16, 36), .y = y}), "x BF16 [4, 36] has rows of 72");
    expect(refusal({.x = x, .w = bf16(12, 32), .y = bf16(4, 12)}), "y BF16 [4, 12] has rows of 24");
    expect(refusal({.x = bf16(4, 40).columns(4, 36), .w = w, .y = y}),
           "begins 8 bytes past a multiple of 16");
    expect(refusal({.x = Tensor::zeros({4, 32}, DType::f32), .w = w, .y = y}), "must be BF16");
    expect(refusal({.x = x, .w = w, .y = Tensor::zeros({4, 16}, DType::i32)}), "BF16 or F32");
    expect(refusal({.x = x, .w = w, .y = y, .accumulate = true}), "needs F32");
    expect(refusal({.x = x, .w = bf16(0, 32), .y = bf16(4, 0)}), "empty rows");
    expect(refusal({.x = bf16(4, 0), .w = bf16(16, 0), .y = y}), "x BF16 [4, 0] has empty rows");
    expect(refusal({.x = Tensor::zeros({4, 1, 32}, DType::bf16), .w = w, .y = y}), "no matrix");
}

}  // namespace
}  // namespace fucina
