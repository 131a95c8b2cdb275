// The grouped FP8 product: exact on whole numbers, and bit for bit the sums that its contract
// states on random ones, by an own model of the tensor cores in whole numbers.
#include <gtest/gtest.h>

#include <random>

#include "kernels/cpu/fp8_kernels.h"
#include "kernels/cuda/gemm_fp8.h"
#include "tests/simt/device.h"
#include "tests/simt/every_order.h"
#include "tests/simt/guarded.h"

namespace fucina::test {
namespace {

using simt::Options;

constexpr int64_t kBlock = 128;
int64_t blocks_of(int64_t size) {
    return (size + kBlock - 1) / kBlock;
}

// A value as sign, whole significand and exponent: significand · 2^exponent.
struct Parts {
    int64_t significand = 0;
    int exponent = 0;
};
Parts e4m3_parts(uint8_t code) {
    const int field = code >> 3 & 15;
    const int64_t significand = (code & 7) + (field > 0 ? 8 : 0);
    return {(code & 0x80) != 0 ? -significand : significand, std::max(field, 1) - 10};
}
Parts fp32_parts(float value) {
    int exponent = 0;
    const float fraction = std::frexp(value, &exponent);
    return {static_cast<int64_t>(std::ldexp(fraction, 24)), exponent - 24};
}

// Toward zero, also of negative numbers.
int64_t cut(int64_t value, int bits) {
    if (bits <= 0) return value << -bits;
    const int64_t size = bits > 62 ? 0 : std::abs(value) >> bits;
    return value < 0 ? -size : size;
}

// sum + 32 products as an H100 adds them: all cut 13 bits below the largest exponent, then the sum
// 13 bits below its own.
float tensor_core_sum(float sum, const uint8_t* x, const uint8_t* w, int64_t count) {
    std::vector<Parts> terms;
    std::vector<int> places;  // of the leading one, as if factors' significands had theirs
    if (sum != 0) {
        terms.push_back(fp32_parts(sum));
        places.push_back(terms.back().exponent + 23);
    }
    for (int64_t k = 0; k < count; ++k) {
        const Parts a = e4m3_parts(x[k]), b = e4m3_parts(w[k]);
        if (a.significand == 0 || b.significand == 0) continue;
        terms.push_back({a.significand * b.significand, a.exponent + b.exponent});
        places.push_back(a.exponent + b.exponent + 6);
    }
    if (terms.empty()) return 0;
    const int unit = *std::max_element(places.begin(), places.end()) - 13;
    int64_t total = 0;
    for (const Parts& term : terms) total += cut(term.significand, unit - term.exponent);
    int surplus = 0;
    while (std::abs(total) >> surplus >= int64_t{1} << 14) ++surplus;
    return static_cast<float>(std::ldexp(static_cast<double>(cut(total, surplus)), unit + surplus));
}

struct Case {
    const char* name;
    std::vector<int64_t> offsets;
    int64_t rows, columns, depth;
};
const Case kCases[] = {
    {"one tile", {0, 128}, 128, 128, 128},
    {"one row", {0, 1}, 1, 128, 256},
    {"experts of many sizes", {0, 130, 130, 131, 208, 464}, 464, 256, 640},
    {"no expert's rows", {3, 3, 40}, 64, 136, 272},
    {"columns and depth that end inside a block", {0, 70, 200}, 200, 200, 144},
    {"DeepSeek-V3's width", {0, 20}, 20, 128, 7168},
};

struct Operands {
    Tensor x, x_scales, w, w_scales;
    std::vector<int64_t> offsets;
    int64_t experts() const { return static_cast<int64_t>(offsets.size()) - 1; }
};

uint8_t* codes(const Tensor& tensor, int64_t row) {
    return reinterpret_cast<uint8_t*>(tensor.raw()) + row * tensor.row_stride();
}
float value_of(uint8_t code) {
    static const std::vector<float> values = [] {
        std::vector<float> table;
        for (int i = 0; i < 256; ++i) {
            const Parts parts = e4m3_parts(static_cast<uint8_t>(i));
            table.push_back(std::ldexp(static_cast<float>(parts.significand), parts.exponent));
        }
        return table;
    }();
    return values[code];
}

template <class Value>
Operands make(const Case& test, Value value, bool whole) {
    Operands in{.offsets = test.offsets};
    const int64_t blocks = blocks_of(test.depth);
    const int64_t tiles = in.experts() * blocks_of(test.columns);
    in.x = Tensor::empty({test.rows, test.depth}, DType::f8_e4m3);
    in.w = Tensor::empty({in.experts() * test.columns, test.depth}, DType::f8_e4m3);
    in.x_scales =
        Tensor::empty({blocks, (test.rows + 3) / 4 * 4}, DType::f32).columns(0, test.rows);
    in.w_scales = Tensor::empty({tiles, blocks}, DType::f32);
    for (const Tensor& tensor : {in.x, in.w})
        for (int64_t i = 0; i < tensor.rows(); ++i)
            for (int64_t j = 0; j < tensor.row_size(); ++j)
                codes(tensor, i)[j] = __nv_fp8_e4m3(value()).__x;
    int64_t count = 0;
    for (const Tensor& tensor : {in.x_scales, in.w_scales})
        for (int64_t i = 0; i < tensor.rows(); ++i)
            for (int64_t j = 0; j < tensor.row_size(); ++j, ++count)
                set(tensor, i, j,
                    whole ? std::ldexp(1.0f, static_cast<int>(count * 7 % 5) - 2)
                          : 0.01f + 0.001f * static_cast<float>(count * 13 % 97));
    return in;
}

template <class Sum>
void check(const Case& test, const Operands& in, Sum sum_of) {
    const Guarded y(test.rows, test.columns, DType::bf16);
    const Tensor want = y.view().clone();
    cuda::grouped_gemm_fp8(kHost, {.x = {in.x, in.x_scales},
                                   .w = in.w,
                                   .w_scales = in.w_scales,
                                   .offsets = in.offsets.data(),
                                   .experts = in.experts(),
                                   .y = y});
    for (int64_t e = 0; e < in.experts(); ++e)
        for (int64_t r = in.offsets[static_cast<size_t>(e)];
             r < in.offsets[static_cast<size_t>(e) + 1]; ++r)
            for (int64_t n = 0; n < test.columns; ++n) set(want, r, n, sum_of(e, r, n));
    for (int64_t r = 0; r < test.rows; ++r)
        ASSERT_EQ(std::memcmp(y.view().raw() + r * y.view().row_stride() * 2,
                              want.raw() + r * want.row_stride() * 2,
                              static_cast<size_t>(test.columns) * 2),
                  0)
            << test.name << ", row " << r << ": " << get(y.view(), r, 0) << " for "
            << get(want, r, 0);
    EXPECT_TRUE(y.intact());
}

float scale_of(const Case& test, const Operands& in, int64_t e, int64_t r, int64_t n, int64_t b) {
    return get(in.x_scales, b, r) * get(in.w_scales, e * blocks_of(test.columns) + n / kBlock, b);
}

class GemmFp8 : public testing::TestWithParam<Options> {
  protected:
    simt::OrderScope scope_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Simt, GemmFp8, testing::ValuesIn(simt::every_order()), simt::order_name);

TEST_P(GemmFp8, WholeNumbersAreExact) {
    int64_t i = 0;
    const auto value = [&] {
        ++i;
        return static_cast<float>((i * i + i / 7) % 3 - 1);
    };
    for (const Case& test : kCases) {
        const Operands in = make(test, value, true);
        check(test, in, [&](int64_t e, int64_t r, int64_t n) {
            const uint8_t *x = codes(in.x, r), *w = codes(in.w, e * test.columns + n);
            float total = 0;
            for (int64_t b = 0; b < blocks_of(test.depth); ++b) {
                const float scale = scale_of(test, in, e, r, n, b);
                for (int64_t k = b * kBlock; k < std::min(test.depth, (b + 1) * kBlock); ++k)
                    total += value_of(x[k]) * value_of(w[k]) * scale;
            }
            return total;
        });
    }
}

TEST(GemmFp8Bits, AreThoseOfTheContract) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal(0, 40);
    for (const Case& test : kCases) {
        const Operands in = make(
            test, [&] { return normal(random); }, false);
        check(test, in, [&](int64_t e, int64_t r, int64_t n) {
            const uint8_t *x = codes(in.x, r), *w = codes(in.w, e * test.columns + n);
            float sum = 0;
            for (int64_t b = 0; b < blocks_of(test.depth); ++b) {
                float part = 0;
                for (int64_t k = b * kBlock; k < std::min(test.depth, (b + 1) * kBlock); k += 32)
                    part =
                        tensor_core_sum(part, x + k, w + k, std::min<int64_t>(32, test.depth - k));
                sum = std::fma(part, scale_of(test, in, e, r, n, b), sum);
            }
            return sum;
        });
    }
}

// In software, for exact numerics: rows of denormals, of large values, of all there are.
TEST(GemmFp8Bits, AreTheCpusToo) {
    constexpr int kRows = 32;
    std::mt19937 random(6);
    std::vector<uint8_t> codes[2];
    std::vector<bfloat16> values[2];
    std::vector<const void*> rows[2];
    for (const int side : {0, 1}) {
        for (int64_t i = 0; i < kRows * kBlock; ++i) {
            const uint32_t codes_of_row[] = {7, 15, 127,
                                             112 + static_cast<uint32_t>(random() % 15)};
            const uint32_t code = random() % (codes_of_row[i / kBlock % 4] + 1);
            codes[side].push_back(
                static_cast<uint8_t>((code == 127 ? 0 : code) | random() % 2 << 7));
            values[side].push_back(to_bfloat16(value_of(codes[side].back())));
        }
        for (int64_t i = 0; i < kRows; ++i) rows[side].push_back(&values[side][i * kBlock]);
    }
    const cpu::GemmKernel& kernel = FUCINA_PICK(kTensorCoreKernel);
    std::vector<uint16_t> a(kRows * kBlock), b(a.size());
    std::vector<float> sums(kRows * kRows);
    kernel.pack_a(rows[0].data(), kRows, kBlock, a.data());
    cpu::scalar::kBf16Tools.pack_b_operand_rows(rows[1].data(), kBlock, b.data());
    kernel.multiply(a.data(), b.data(), kBlock, kRows, false, sums.data());
    for (int64_t i = 0; i < kRows; ++i)
        for (int64_t j = 0; j < kRows; ++j) {
            float sum = 0;
            for (int64_t k = 0; k < kBlock; k += 32)
                sum =
                    tensor_core_sum(sum, &codes[0][i * kBlock + k], &codes[1][j * kBlock + k], 32);
            EXPECT_EQ(sums[i * kRows + j], sum) << i << ", " << j;
        }
}

TEST(GemmFp8Bits, NothingToDo) {
    const Tensor none = Tensor::empty({0, 128}, DType::f8_e4m3);
    const int64_t offsets[] = {0, 0};
    cuda::grouped_gemm_fp8(kHost, {.x = {none, Tensor::empty({1, 0}, DType::f32)},
                                   .w = Tensor::empty({128, 128}, DType::f8_e4m3),
                                   .w_scales = Tensor::empty({1, 1}, DType::f32),
                                   .offsets = offsets,
                                   .experts = 1,
                                   .y = Tensor::empty({0, 128}, DType::bf16)});
}

}  // namespace
}  // namespace fucina::test
