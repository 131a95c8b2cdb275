// Every CUDA kernel through the same harness as the CPU's: each KernelCase in every setting of the
// GPU, which must agree bit for bit, and against the reference; each backward against finite
// differences. The GPU is the SIMT model, whose settings are schedules, or (tests/gpu) a real one.
#include "tests/support/kernel_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/swiglu.h"
#include "kernels/runtime.h"
#include "tests/reference/quantize.h"
#include "tests/reference/reference.h"
#include "tests/simt/device.h"
#include "tests/support/gpu_settings.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

// Whose bits the device's are, in exact numerics.
Setting cpu() {
    return {"the CPU", [] { set_runtime(1, Numerics::exact, ProductOrder::fma); }, [] {}};
}

// What is large takes long: two settings will do, as races are found whatever the schedule.
void check(const Cases& cases, const std::vector<Setting>& others = {}) {
    constexpr double kFlops = 2e7, kBytes = 4 << 20;
    for (const KernelCase& test : cases.kernels) {
        std::vector<Setting> settings = gpu_settings();
        if (test.flops > kFlops || test.bytes > kBytes) settings.resize(2);
        settings.insert(settings.end(), others.begin(), others.end());
        check_parity(test, settings);
    }
    for (const GradientCase& test : cases.gradients) check_gradient(test, device());
}

// The ops of the program, through the cases that all back ends share: each op's, by the first word
// of their names. Products are in the order of CUDA cores.
class CudaOps : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override { set_runtime(runtime().threads, Numerics::exact, ProductOrder::fma); }
    void TearDown() override { set_runtime(runtime().threads, Numerics::exact); }
};

std::string op_of(const std::string& name) {
    return name.substr(0, name.find_first_of(" ,"));
}

std::vector<std::string> op_names() {
    std::set<std::string> names;
    for (const KernelCase& test : all_cases().kernels) names.insert(op_of(test.name));
    for (const GradientCase& test : all_cases().gradients) names.insert(op_of(test.name));
    return {names.begin(), names.end()};
}

TEST_P(CudaOps, AgreeWithTheReference) {
    Cases cases;
    std::ranges::copy_if(all_cases().kernels, std::back_inserter(cases.kernels),
                         [](const auto& test) { return op_of(test.name) == GetParam(); });
    std::ranges::copy_if(all_cases().gradients, std::back_inserter(cases.gradients),
                         [](const auto& test) { return op_of(test.name) == GetParam(); });
    check(cases, {cpu()});
}

INSTANTIATE_TEST_SUITE_P(Each, CudaOps, testing::ValuesIn(op_names()),
                         [](const auto& info) { return info.param; });

Tensor like(const Tensor& x) {
    return exec().empty({x.rows(), x.row_size()}, x.dtype());
}

struct Matrix {
    int64_t rows, width;
};
// DeepSeek-V3's expert and dense widths, one token, odd sizes, nothing.
constexpr Matrix kSwiglu[] = {{3, 2048}, {2, 18432}, {1, 384}, {7, 100}, {5, 33}, {0, 64}};

// A bf16 output may fall to the next value, 2^-7 at most; in fp32 expf is two ulps off, and some
// eight roundings follow.
double swiglu_tolerance(DType type) {
    return type == DType::bf16 ? 0x1p-7 : 1e-6;
}
constexpr const char* kSwigluReason = "expf and fp32 roundings; in bf16 one rounding step";

double sigmoid(double x) {
    return 1 / (1 + std::exp(-x));
}

void reference_swiglu(const Tensor& gate_up, const Tensor& h) {
    for (int64_t i = 0; i < h.rows(); ++i)
        for (int64_t j = 0; j < h.row_size(); ++j) {
            const double gate = double{get(gate_up, i, j)};
            const double up = double{get(gate_up, i, j + h.row_size())};
            set(h, i, j, static_cast<float>(gate * sigmoid(gate) * up));
        }
}

KernelCase swiglu_case(Matrix shape, DType type) {
    return {.name = concat("swiglu ", name_of(type), " [", shape.rows, ", ", shape.width, "]"),
            .inputs = {random_tensor({shape.rows, 2 * shape.width}, type, 1, 4.0f)},
            .run =
                [shape, type](Version version, const Tensors& in) {
                    const Tensor h = exec().empty({shape.rows, shape.width}, type);
                    if (version == Version::fast)
                        cuda::swiglu(exec(), in[0], h);
                    else
                        reference_swiglu(in[0], h);
                    return Tensors{h};
                },
            .tolerance = swiglu_tolerance(type),
            .reason = kSwigluReason,
            .bytes = static_cast<double>(3 * shape.rows * shape.width * size_of(type))};
}

// Outputs d_gate_up, weighted_h, d_row_weight [S, 1] of inputs dh, gate_up, row_weight [S, 1].
Tensors reference_swiglu_backward(const Tensors& in) {
    const Tensor &dh = in[0], &gate_up = in[1], &weights = in[2];
    const Tensor d_gate_up = like(gate_up), weighted_h = like(dh), d_weight = like(weights);
    const int64_t width = dh.row_size();
    const Tensor h = like(dh);
    reference_swiglu(gate_up, h);
    for (int64_t i = 0; i < dh.rows(); ++i) {
        const double weight = double{get(weights, i, 0)};
        double dot = 0;
        for (int64_t j = 0; j < width; ++j) {
            const double gate = double{get(gate_up, i, j)};
            const double up = double{get(gate_up, i, j + width)};
            const double s = sigmoid(gate), d = weight * double{get(dh, i, j)};
            dot += double{get(dh, i, j)} * double{get(h, i, j)};
            set(weighted_h, i, j, static_cast<float>(weight * double{get(h, i, j)}));
            set(d_gate_up, i, j, static_cast<float>(d * up * s * (1 + gate * (1 - s))));
            set(d_gate_up, i, j + width, static_cast<float>(d * gate * s));
        }
        set(d_weight, i, 0, static_cast<float>(dot));
    }
    return {d_gate_up, weighted_h, d_weight};
}

Tensors device_swiglu_backward(const Tensors& in) {
    const Tensors out{like(in[1]), like(in[0]), like(in[2])};
    cuda::swiglu_backward(exec(), {.dh = in[0],
                                   .gate_up = in[1],
                                   .row_weight = in[2].data<float>(),
                                   .d_gate_up = out[0],
                                   .weighted_h = out[1],
                                   .d_row_weight = out[2].data<float>()});
    return out;
}

KernelCase swiglu_backward_case(Matrix shape, DType type) {
    return {
        .name = concat("swiglu_backward ", name_of(type), " [", shape.rows, ", ", shape.width, "]"),
        .inputs = {random_tensor({shape.rows, shape.width}, type, 2),
                   random_tensor({shape.rows, 2 * shape.width}, type, 3, 2.0f),
                   random_tensor({shape.rows, 1}, DType::f32, 4)},
        .run =
            [](Version version, const Tensors& in) {
                return version == Version::fast ? device_swiglu_backward(in)
                                                : reference_swiglu_backward(in);
            },
        // The dot is a sum of some `width` products: in fp32 it is off by a few of its steps.
        .tolerance = type == DType::bf16 ? swiglu_tolerance(type) : 5e-6,
        .reason = kSwigluReason,
        .bytes = static_cast<double>(6 * shape.rows * shape.width * size_of(type))};
}

// h, and the row weight's own path: y = row_weight · h.
GradientCase swiglu_gradient() {
    return {.name = "swiglu_backward",
            .inputs = {random_tensor({3, 14}, DType::f32, 5), random_tensor({3, 1}, DType::f32, 6)},
            .forward =
                [](const Tensors& in) {
                    const Tensor h = Tensor::empty({3, 7}, DType::f32);
                    reference_swiglu(in[0], h);
                    for (int64_t i = 0; i < 3; ++i)
                        for (int64_t j = 0; j < 7; ++j)
                            set(h, i, j, get(in[1], i, 0) * get(h, i, j));
                    return Tensors{h};
                },
            .backward =
                [](const Tensors& in, const Tensors& d) {
                    const Tensors out = device_swiglu_backward({d[0], in[0], in[1]});
                    return Tensors{out[0], out[2]};
                }};
}

TEST(CudaKernelCases, Swiglu) {
    Cases cases;
    for (const Matrix shape : kSwiglu)
        for (const DType type : {DType::bf16, DType::f32}) {
            cases.kernels.push_back(swiglu_case(shape, type));
            cases.kernels.push_back(swiglu_backward_case(shape, type));
        }
    cases.gradients.push_back(swiglu_gradient());
    check(cases);
}

// Normal values of very different size in each block, zeros, and ties of E4M3.
Tensor awkward(Matrix shape) {
    const Tensor x = random_tensor({shape.rows, shape.width}, DType::bf16, 11);
    Random random(12);
    for (int64_t i = 0; i < shape.rows; ++i)
        for (int64_t j = 0; j < shape.width; ++j) {
            const int64_t kind = random.below(8);
            const float scale = std::ldexp(1.0f, static_cast<int>(random.below(24)) - 12);
            if (kind == 0) set(x, i, j, get(x, i, j) * scale);
            if (kind == 1) set(x, i, j, 0.0f);
            if (kind == 2) set(x, i, j, static_cast<float>(random.below(33) - 16) / 16);
        }
    return x;
}

QuantizedRows empty_quantized(int64_t rows, int64_t columns) {
    const int64_t blocks = (columns + kQuantizeBlock - 1) / kQuantizeBlock;
    return {exec().empty({rows, columns}, DType::f8_e4m3),
            exec().empty({blocks, rows}, DType::f32)};
}

KernelCase quantize_case(Matrix shape, ScaleFormat format) {
    const int64_t padded = (shape.rows + kQuantizeBlock - 1) / kQuantizeBlock * kQuantizeBlock;
    return {.name = concat("quantize", format == ScaleFormat::fp32 ? "" : " power of two", " [",
                           shape.rows, ", ", shape.width, "]"),
            .inputs = {awkward(shape)},
            .run =
                [=](Version version, const Tensors& in) {
                    const Quantize io{.x = in[0],
                                      .rows = empty_quantized(shape.rows, shape.width),
                                      .columns = empty_quantized(shape.width, padded),
                                      .format = format};
                    if (version == Version::fast)
                        cuda::quantize(exec(), io);
                    else
                        reference::quantize(io);
                    return Tensors{io.rows.values, io.rows.scales, io.columns.values,
                                   io.columns.scales};
                },
            .reason = "the same products and roundings",
            .bytes = static_cast<double>(shape.rows * shape.width) * (2 + 1 + 1 + 2 * 4 / 128.0)};
}

// Tiles of DeepSeek-V3's shapes (hidden 7168, expert 2048), one token, ragged tiles, nothing.
constexpr Matrix kQuantize[] = {{128, 7168}, {3, 2048}, {1, 512}, {260, 512},
                                {129, 144},  {77, 16},  {0, 512}};

TEST(CudaKernelCases, Quantize) {
    Cases cases;
    for (const Matrix shape : kQuantize)
        for (const ScaleFormat format : {ScaleFormat::fp32, ScaleFormat::power_of_two})
            cases.kernels.push_back(quantize_case(shape, format));
    check(cases);
}

struct Product {
    int64_t m, n, k;
};

// bf16 values, kept in fp32 as ops::pack takes them.
Tensor rounded(const Tensor& x) {
    const Tensor out = like(x);
    for (int64_t i = 0; i < x.rows(); ++i)
        for (int64_t j = 0; j < x.row_size(); ++j)
            set(out, i, j, to_float(to_bfloat16(get(x, i, j))));
    return out;
}

KernelCase linear_case(Product shape, DType out) {
    return {.name = concat("linear ", name_of(out), " [", shape.m, ", ", shape.n, "], K ", shape.k),
            .inputs = {random_tensor({shape.m, shape.k}, DType::bf16, 1),
                       rounded(random_tensor({shape.n, shape.k}, DType::f32, 2))},
            .run =
                [=](Version version, const Tensors& in) {
                    const Tensor y = exec().empty({shape.m, shape.n}, out);
                    if (version == Version::fast) {
                        const Tensor w = exec().empty({shape.n, shape.k}, DType::bf16);
                        cuda::cast(exec(), in[1], w);
                        cuda::CublasLt().linear({.x = in[0], .w = w, .y = y}, exec().stream);
                        exec().wait();  // before the library's workspace goes
                    } else {
                        reference::linear(
                            in[0], reference::pack(in[1], PackKind::forward, DType::bf16), y);
                    }
                    return Tensors{y};
                },
            .tolerance = out == DType::bf16 ? 0x1p-7 : 1e-5,
            .reason = "the library's order of summation in fp32; in bf16 one rounding step",
            .flops = static_cast<double>(2 * shape.m * shape.n * shape.k)};
}

TEST(CudaKernelCases, Linear) {
    Cases cases;
    for (const Product shape : {Product{3, 48, 7168}, {1, 512, 128}, {37, 24, 40}, {0, 16, 16}})
        for (const DType out : {DType::bf16, DType::f32})
            cases.kernels.push_back(linear_case(shape, out));
    check(cases);
}

}  // namespace
}  // namespace fucina::test
