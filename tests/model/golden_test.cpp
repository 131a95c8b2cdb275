// Numbers of transformers, stored by tests/oracle/make_goldens.py: logits and loss within 1e-5
// relative, gradients within 1e-4 and cosine 0.999999, on every instruction set that this machine
// has. fp32 rounding alone gives about 1e-6.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/runtime.h"
#include "tests/support/kernel_case.h"
#include "tests/support/temporary_directory.h"
#include "trainer/weights.h"

namespace fucina {
namespace {

template <class T>
std::vector<T> read(const TensorFile& file, const std::string& name) {
    const TensorInfo& tensor = file.at(name);
    std::vector<T> values(static_cast<size_t>(element_count(tensor.shape)));
    file.read(tensor, std::as_writable_bytes(std::span(values)));
    return values;
}

struct Difference {
    double largest = 0, norm = 0, cosine = 0;  // the first two relative to what was expected
};

Difference difference(std::span<const float> actual, std::span<const float> expected) {
    EXPECT_EQ(actual.size(), expected.size());
    double largest = 0, largest_error = 0, aa = 0, ee = 0, ae = 0, dd = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        const double a = actual[i], e = expected[i];
        largest = std::max(largest, std::abs(e));
        largest_error = std::max(largest_error, std::abs(a - e));
        aa += a * a, ee += e * e, ae += a * e, dd += (a - e) * (a - e);
    }
    return {largest_error / largest, std::sqrt(dd / ee), ae / std::sqrt(aa * ee)};
}

class Golden : public testing::TestWithParam<std::string> {
  protected:
    void TearDown() override { force_isa(""); }
};
INSTANTIATE_TEST_SUITE_P(DeepseekV3, Golden, testing::Values("plain", "yarn"),
                         [](const auto& info) { return info.param; });

TEST_P(Golden, LogitsLossAndGradientsEqualTransformers) {
    const std::filesystem::path directory =
        std::filesystem::path(FUCINA_SOURCE_DIR) / "tests/golden" / ("deepseek_v3_" + GetParam());
    const TensorFile expected(directory / "expected.safetensors");
    const std::vector<int32_t> ids = read<int32_t>(expected, "ids");
    const int64_t length = expected.at("ids").shape[1];
    std::vector<std::vector<int32_t>> documents;
    for (auto at = ids.begin(); at != ids.end(); at += length)
        documents.emplace_back(at, at + length);
    const TokenBatch batch = make_batch(documents);
    const auto labels = static_cast<double>(count_labels(batch));

    for (const std::string& level : test::isa_levels()) {
        SCOPED_TRACE(level);
        force_isa(level);
        Model model(read_model_spec(directory), {.compute = DType::f32});
        load_weights(model, TensorFile(directory / "model.safetensors"));
        const Tensor logits = model.logits(batch);
        const std::span<const float> ours(logits.data<float>(), static_cast<size_t>(logits.size()));
        EXPECT_LT(difference(ours, read<float>(expected, "logits")).largest, 1e-5);

        const PassResult result = model.forward_backward(batch, {.loss_scale = 1 / labels});
        const double loss = result.loss.value() / labels;
        EXPECT_NEAR(loss / read<float>(expected, "loss")[0], 1, 1e-5);

        const TemporaryDirectory scratch;
        write_gradients(model, scratch.path() / "gradients.safetensors");
        const TensorFile gradients(scratch.path() / "gradients.safetensors");
        EXPECT_EQ(gradients.tensors().size() + 3, expected.tensors().size());
        for (const TensorInfo& tensor : gradients.tensors()) {
            const Difference apart = difference(read<float>(gradients, tensor.name),
                                                read<float>(expected, "gradients." + tensor.name));
            EXPECT_LT(apart.norm, 1e-4) << tensor.name;
            EXPECT_GE(apart.cosine, 0.999999) << tensor.name;
        }
    }
}

}  // namespace
}  // namespace fucina
