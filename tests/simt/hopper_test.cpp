// Each of Hopper's instructions alone against its specification, written here a second time: PTX
// ISA's canonical layouts as CuTe states them, CUTLASS's accumulator layout, TMA's swizzle.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/error.h"
#include "tests/simt/every_order.h"
#include "tests/simt/executor.h"
#include "tests/simt/hopper_kernels.h"

namespace fucina::simt {
namespace {

using cuda::Copying;
using cuda::Element;
using cuda::Matrix2D;
using cuda::Pending;
using cuda::TileImage;

// CuTe's Swizzle<bits, 4, 3> on a byte offset.
size_t cute_swizzle(size_t offset, int swizzle) {
    const int bits = swizzle == 128 ? 3 : swizzle == 64 ? 2 : swizzle == 32 ? 1 : 0;
    const size_t mask = (size_t{1} << bits) - 1;
    return offset ^ ((offset >> 7 & mask) << 4);
}

// CUTLASS's CLayout_64xN: ((4,8,4),(2,2,N/8)) : ((128,1,16),(64,8,512)), in m + 64 n.
std::pair<size_t, size_t> element_of(size_t thread, size_t i) {
    const size_t at = thread % 4 * 128 + thread / 4 % 8 + thread / 32 * 16 + i % 2 * 64 +
                      i / 2 % 2 * 8 + i / 4 * 512;
    return {at % 64, at / 64};
}

struct LayoutCase {
    Element type;
    int n, swizzle;
    bool a_mn, b_mn;
};

// The byte of element (m, k) of a tile of `rows` by one instruction's depth, in the canonical
// layouts of PTX ISA 9.7.15.5.1.2.1.3, with T = 16 bytes.
size_t canonical(const TileImage& tile, size_t m, size_t k, size_t bytes) {
    const size_t t = 16 / bytes, w = static_cast<size_t>(tile.swizzle) / 16;
    size_t offset = 0;
    if (tile.mn_major && w == 0)  // ((T,1,m),(8,k)) : ((1,T,SBO),(1T,LBO))
        offset = m % t * bytes + m / t * tile.stride + k % 8 * 16 + k / 8 * tile.leading;
    else if (tile.mn_major)  // ((T,w,m),(8,k)) : ((1,T,LBO),(wT,SBO))
        offset = m % t * bytes + m / t % w * 16 + m / t / w * tile.leading + k % 8 * w * 16 +
                 k / 8 * tile.stride;
    else if (w == 0)  // ((8,m),(T,2k)) : ((1T,SBO),(1,LBO))
        offset = m % 8 * 16 + m / 8 * tile.stride + k % t * bytes + k / t * tile.leading;
    else  // ((8,m),(T,2k)) : ((wT,SBO),(1,T))
        offset = m % 8 * w * 16 + m / 8 * tile.stride + k * bytes;
    return cute_swizzle(offset, tile.swizzle);
}

TileImage empty_tile(int rows, int swizzle, bool mn_major) {
    TileImage tile{.swizzle = swizzle, .mn_major = mn_major};
    const uint32_t blocks = static_cast<uint32_t>(rows) / 8;
    if (mn_major) {
        tile.stride = swizzle == 0 ? 256 : static_cast<uint32_t>(swizzle) * 8;
        tile.leading = swizzle == 0 ? 256 * blocks : static_cast<uint32_t>(swizzle) * 16;
        if (swizzle == 0) tile.stride = 128, tile.leading = 128 * blocks;
    } else {
        tile.stride = swizzle == 0 ? 128 : static_cast<uint32_t>(swizzle) * 8;
        tile.leading = swizzle == 0 ? 128 * blocks : 16;
    }
    tile.bytes.assign(32 << 10, 0x7f);  // NaN in both formats where nothing is put
    return tile;
}

uint16_t encode(Element type, float value) {
    if (type == Element::bf16) return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    return __nv_fp8_e4m3(value).__x;
}

std::vector<float> fill(Element type, int rows, int depth, size_t seed, TileImage& tile) {
    const size_t bytes = type == Element::bf16 ? 2 : 1;
    std::vector<float> values;
    for (size_t m = 0; m < static_cast<size_t>(rows); ++m)
        for (size_t k = 0; k < static_cast<size_t>(depth); ++k) {
            const float value = static_cast<float>((m * 7 + k * 13 + m * k + seed) % 9) - 4.0f;
            values.push_back(value);
            const uint16_t code = encode(type, value);
            std::memcpy(&tile.bytes[canonical(tile, m, k, bytes)], &code, bytes);
        }
    return values;
}

void check_layout(const LayoutCase& layout, bool accumulate) {
    const int depth = layout.type == Element::bf16 ? 16 : 32;
    TileImage a = empty_tile(64, layout.swizzle, layout.a_mn);
    TileImage b = empty_tile(layout.n, layout.swizzle, layout.b_mn);
    const std::vector<float> x = fill(layout.type, 64, depth, 1, a);
    const std::vector<float> w = fill(layout.type, layout.n, depth, 2, b);
    const size_t registers = static_cast<size_t>(layout.n) / 2, count = static_cast<size_t>(depth);
    std::vector<float> d(128 * registers);
    std::iota(d.begin(), d.end(), 1.0f);
    cuda::one_wgmma(layout.type, layout.n, a, b, accumulate, d);
    for (size_t t = 0; t < 128; ++t)
        for (size_t i = 0; i < registers; ++i) {
            const auto [m, n] = element_of(t, i);
            float want = accumulate ? static_cast<float>(t * registers + i + 1) : 0.0f;
            for (size_t k = 0; k < count; ++k) want += x[m * count + k] * w[n * count + k];
            ASSERT_EQ(d[t * registers + i], want) << "thread " << t << " register " << i;
        }
}

class Hopper : public testing::TestWithParam<Options> {
  protected:
    OrderScope scope_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Simt, Hopper, testing::ValuesIn(every_order()), order_name);

TEST_P(Hopper, WgmmaReadsEveryCanonicalLayout) {
    for (const int swizzle : {0, 32, 64, 128})
        for (const bool a_mn : {false, true})
            for (const bool b_mn : {false, true}) {
                SCOPED_TRACE(concat("swizzle ", swizzle, " A MN ", a_mn, " B MN ", b_mn));
                check_layout({Element::bf16, 64, swizzle, a_mn, b_mn}, true);
            }
    for (const int swizzle : {0, 32, 64, 128})
        check_layout({Element::e4m3, 64, swizzle, false, false}, false);
}

TEST(HopperShapes, WgmmaOfEveryWidth) {
    for (const int n : {64, 128, 256})
        for (const bool accumulate : {false, true}) {
            check_layout({Element::bf16, n, 128, false, false}, accumulate);
            check_layout({Element::bf16, n, 128, true, true}, accumulate);
            check_layout({Element::e4m3, n, 128, false, false}, false);
        }
}

std::vector<uint8_t> counted(size_t count) {
    std::vector<uint8_t> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<uint8_t>(i * 7 + i / 251 + 1);
    return values;
}

struct BoxCase {
    int element, rows, columns, box_rows, box_columns, swizzle, x, y;
};
// Inside, over each edge, beyond all of them, before the first element.
constexpr BoxCase kBoxes[] = {
    {1, 40, 160, 16, 128, 128, 0, 8},   {2, 40, 80, 16, 64, 128, 0, 0},
    {2, 40, 80, 16, 64, 128, 40, 30},   {1, 40, 150, 8, 64, 64, 100, 33},
    {2, 20, 36, 16, 16, 32, -4, -3},    {4, 20, 36, 8, 8, 32, 30, 18},
    {4, 33, 40, 32, 4, 0, 38, 20},      {1, 20, 48, 16, 48, 0, 64, 0},
    {2, 300, 64, 256, 64, 128, 0, 100}, {1, 20, 48, 16, 48, 0, 0, 100},
};

TEST_P(Hopper, TmaSwizzlesAndFills) {
    for (const BoxCase& box : kBoxes) {
        SCOPED_TRACE(concat("x ", box.x, " y ", box.y, " swizzle ", box.swizzle));
        const int64_t row_bytes = (box.columns * box.element + 15) / 16 * 16 + 16;
        const std::vector<uint8_t> in = counted(static_cast<size_t>(box.rows * row_bytes));
        std::vector<uint8_t> back(in.size(), 0), want_back = back;
        Matrix2D matrix{in.data(), box.element,  box.rows,        box.columns,
                        row_bytes, box.box_rows, box.box_columns, box.swizzle};
        const std::vector<uint8_t> image = cuda::load_box(matrix, box.x, box.y);
        matrix.data = back.data();
        cuda::store_box(matrix, box.x, box.y, image);
        const int width = box.box_columns * box.element;
        for (int r = 0; r < box.box_rows; ++r)
            for (int c = 0; c < width; ++c) {
                const int row = box.y + r, column = box.x * box.element + c;
                const bool inside =
                    row >= 0 && row < box.rows && column >= 0 && column < box.columns * box.element;
                const size_t from = static_cast<size_t>(inside ? row * row_bytes + column : 0);
                const size_t at = cute_swizzle(static_cast<size_t>(r * width + c), box.swizzle);
                ASSERT_EQ(image[at], inside ? in[from] : 0) << r << ", " << c;
                if (inside) want_back[from] = in[from];
            }
        ASSERT_EQ(back, want_back);
    }
}

std::string refusal(const Matrix2D& matrix) {
    try {
        cuda::make_map(matrix);
    } catch (const fucina::Error& error) {
        return error.what();
    }
    return "";
}

TEST(HopperShapes, TensorMapsObeyTheDriver) {
    alignas(64) static char data[64];
    const Matrix2D good{data, 2, 100, 64, 128, 64, 64, 128};
    EXPECT_EQ(refusal(good), "");
    const auto broken = [&](auto change) {
        Matrix2D matrix = good;
        change(matrix);
        return refusal(matrix);
    };
    const auto has = [](const std::string& message, const char* part) {
        EXPECT_NE(message.find(part), std::string::npos) << message;
    };
    has(broken([](Matrix2D& m) { m.data = data + 8; }), "aligned to 16");
    has(broken([](Matrix2D& m) { m.row_bytes = 136; }), "136 bytes apart");
    has(broken([](Matrix2D& m) { m.row_bytes = 112; }), "112 bytes apart");
    has(broken([](Matrix2D& m) { m.box_rows = 257; }), "[257, 64]");
    has(broken([](Matrix2D& m) { m.box_columns = 4; }), "a box row of 8 bytes");
    has(broken([](Matrix2D& m) { m.swizzle = 64; }), "wider than its swizzle of 64");
    has(broken([](Matrix2D& m) { m.rows = 0; }), "[0, 64]");
}

TEST_P(Hopper, CopiesThroughSharedMemory) {
    const std::vector<uint8_t> in = counted(3072);
    alignas(16) static uint8_t from[3072], to[3072];
    std::memcpy(from, in.data(), in.size());
    const auto run = [&](Copying fault) {
        std::memset(to, 0xee, sizeof to);
        return message_of([&] { cuda::copy_through_shared(fault, from, 2048, to); });
    };
    ASSERT_EQ(run(Copying::none), "");
    for (size_t i = 0; i < 3072; ++i) ASSERT_EQ(to[i], i < 2048 ? in[i] : 0) << i;
    const auto has = [](const std::string& message, const char* part) {
        EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks\n" << part;
    };
    has(run(Copying::no_wait), "exits with async_copy_16 under way");
    has(run(Copying::no_commit), "exits with async_copy_16 under way");
    has(run(Copying::misaligned), "is not aligned to 16 bytes");
    if (!kRaceCheck) return;
    has(run(Copying::read_while_loading), "to which its cp.async is under way");
    has(run(Copying::no_barrier), "bulk_store hopper_kernels.cu:");
}

TEST_P(Hopper, WaitsLeaveTheNewestGroup) {
    const std::vector<uint8_t> in = counted(256);
    alignas(16) static uint8_t from[256], to[256];
    std::memcpy(from, in.data(), in.size());
    float sum = 0;
    const auto run = [&](Pending fault) {
        return message_of([&] { cuda::two_groups(fault, from, to, &sum); });
    };
    EXPECT_EQ(run(Pending::none), "");
    EXPECT_EQ(sum, 32.0f);
    for (size_t i = 0; i < 256; ++i) EXPECT_EQ(to[i], static_cast<uint8_t>(in[i] + (i < 128))) << i;
    EXPECT_EQ(run(Pending::product_read), "");
    EXPECT_TRUE(std::isnan(sum));
    if (!kRaceCheck) return;
    const std::string read = run(Pending::copy_read), overwritten = run(Pending::store_overwritten);
    EXPECT_NE(read.find("byte 128 of shared memory, to which its cp.async"), std::string::npos);
    EXPECT_NE(overwritten.find("byte 128 of shared memory: this write"), std::string::npos);
    EXPECT_NE(overwritten.find("a read by bulk_store"), std::string::npos) << overwritten;
}

TEST_P(Hopper, ArrivingAtANamedBarrierTellsButDoesNotLearn) {
    std::vector<int> in(32), out(32);
    std::iota(in.begin(), in.end(), 100);
    EXPECT_EQ(message_of([&] { cuda::hand_over(false, in.data(), out.data()); }), "");
    EXPECT_EQ(out, in);
    if (!kRaceCheck) return;
    const std::string message = message_of([&] { cuda::hand_over(true, in.data(), out.data()); });
    EXPECT_NE(message.find("of shared back"), std::string::npos) << message;
}

TEST(HopperShapes, RegistersAreABlocksOwn) {
    EXPECT_EQ(message_of([] { cuda::move_registers(false, 384); }), "");
    const std::string many = message_of([] { cuda::move_registers(true, 384); });
    EXPECT_NE(many.find("want 66560 registers, the block has 65536"), std::string::npos) << many;
    const std::string part = message_of([] { cuda::move_registers(false, 352); });
    EXPECT_NE(part.find("in a warpgroup of less than 128"), std::string::npos) << part;
}

// DeepSeek-V3 found some 2 % at K = 4,096 without promotion. These values are uniform in [0, 1), so
// that every cut goes the same way; mmaemu gives 6.6 % without and 0.05 % with it for such.
TEST(HopperShapes, LongSumsInE4m3NeedPromotion) {
    std::vector<uint8_t> x(4096), w(4096);
    double want = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const __nv_fp8_e4m3 a(static_cast<float>(i * 37 % 64) / 64);
        const __nv_fp8_e4m3 b(static_cast<float>(i * i % 101) / 101);
        x[i] = a.__x;
        w[i] = b.__x;
        want += double{static_cast<float>(a)} * double{static_cast<float>(b)};
    }
    float y[2];
    cuda::sum_4096(x.data(), w.data(), y);
    const double plain = std::fabs(double{y[0]} - want) / want;
    const double promoted = std::fabs(double{y[1]} - want) / want;
    EXPECT_GT(plain, 0.05);
    EXPECT_LT(plain, 0.08);
    EXPECT_LT(promoted, 0.001);
}

}  // namespace
}  // namespace fucina::simt
