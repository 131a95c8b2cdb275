#include "tests/support/kernel_case.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/runtime.h"
#include "tests/support/random_tensor.h"

namespace fucina::test {
namespace {

Exec running_on = kHost;

// Runs body on copies of the tensors there; its tensors come back to the host.
template <class Body>
Tensors run_on(const Exec& where, const std::vector<Tensors>& inputs, const Body& body) {
    std::vector<Tensors> there = inputs;
    for (Tensors& tensors : there)
        for (Tensor& x : tensors)
            if (x.defined() && !where.on_host()) x = where.clone(x);
    running_on = where;
    Tensors outputs = body(there);
    for (Tensor& x : outputs)
        if (x.defined()) x = on_host(where, x);
    running_on = kHost;
    return outputs;
}

double root_mean_square(const Tensor& x) {
    double sum = 0;
    for (int64_t i = 0; i < x.rows(); ++i)
        for (int64_t j = 0; j < x.row_size(); ++j) sum += double{get(x, i, j)} * get(x, i, j);
    return x.size() == 0 ? 0 : std::sqrt(sum / static_cast<double>(x.size()));
}

// Empty where all is well; else the first difference.
std::string difference(const Tensor& found, const Tensor& expected, double tolerance) {
    if (found.dtype() != expected.dtype() || found.rows() != expected.rows() ||
        found.row_size() != expected.row_size())
        return found.describe() + " instead of " + expected.describe();
    const bool floats = expected.dtype() == DType::f32 || expected.dtype() == DType::bf16;
    if (!floats || tolerance == 0) {
        if (bit_equal(found, expected)) return "";
        if (!floats) return "differs, in " + expected.describe();
    }
    const double scale = root_mean_square(expected);
    for (int64_t i = 0; i < expected.rows(); ++i)
        for (int64_t j = 0; j < expected.row_size(); ++j) {
            const double a = get(found, i, j), b = get(expected, i, j);
            const bool same = tolerance == 0 ? std::bit_cast<uint32_t>(get(found, i, j)) ==
                                                   std::bit_cast<uint32_t>(get(expected, i, j))
                                             : std::abs(a - b) <= tolerance * (std::abs(b) + scale);
            if (!same)
                return concat("[", i, ", ", j, "] of ", expected.describe(), " is ", a, ", not ", b,
                              " (scale ", scale, ", tolerance ", tolerance, ")");
        }
    return "";
}

// Sum of outputs · d_outputs, in fp64.
double weighted_sum(const Tensors& outputs, const Tensors& d_outputs) {
    double sum = 0;
    for (size_t k = 0; k < outputs.size(); ++k)
        for (int64_t i = 0; i < outputs[k].rows(); ++i)
            for (int64_t j = 0; j < outputs[k].row_size(); ++j)
                sum += double{get(outputs[k], i, j)} * get(d_outputs[k], i, j);
    return sum;
}

std::vector<void (*)(Cases&)>& adders() {
    static std::vector<void (*)(Cases&)> registered;
    return registered;
}

}  // namespace

const Exec& exec() {
    return running_on;
}

void set_exec(const Exec& where) {
    running_on = where;
}

std::vector<std::string> isa_levels() {
    std::vector<std::string> levels;
    for (int i = 0; i <= static_cast<int>(best_isa()); ++i)
        levels.emplace_back(name_of(static_cast<IsaLevel>(i)));
    if (best_isa() != IsaLevel::amx) levels.emplace_back("amx-emulated");
    return levels;
}

std::vector<Setting> isa_settings() {
    std::vector<Setting> settings;
    for (const std::string& level : isa_levels()) {
        force_isa(level);
        if (offers(runtime().products))
            settings.push_back({level, [level] { force_isa(level); }, [] { force_isa(""); }});
    }
    force_isa("");
    return settings;
}

void check_parity(const KernelCase& test, const std::vector<Setting>& settings) {
    const Tensors expected = test.run(Version::reference, test.inputs);
    Tensors first;
    for (const Setting& setting : settings) {
        setting.enter();
        const Tensors found = run_on(setting.exec, {test.inputs}, [&](const auto& there) {
            return test.run(Version::fast, there[0]);
        });
        setting.leave();
        ASSERT_EQ(found.size(), expected.size()) << test.name;
        for (size_t k = 0; k < found.size(); ++k) {
            const std::string wrong = difference(found[k], expected[k], test.tolerance);
            EXPECT_EQ(wrong, "") << test.name << ", " << setting.name << ", output " << k << ": "
                                 << test.reason;
            if (!first.empty()) {
                EXPECT_EQ(difference(found[k], first[k], 0), "")
                    << test.name << ": bits of output " << k << " at " << setting.name << " and "
                    << settings[0].name;
            }
        }
        if (first.empty()) first = found;
    }
}

// Central differences with steps h and h/2, combined (Richardson), so that the error is that of
// fp32 outputs, about 1e-7 / h, and terms of order h^4.
void check_gradient(const GradientCase& test, const Exec& where) {
    Tensors d_outputs;
    for (const Tensor& output : test.forward(test.inputs))
        d_outputs.push_back(
            random_tensor({output.rows(), output.row_size()}, DType::f32, 77 + d_outputs.size()));
    const Tensors gradients = run_on(where, {test.inputs, d_outputs}, [&](const auto& there) {
        return test.backward(there[0], there[1]);
    });
    ASSERT_EQ(gradients.size(), test.inputs.size()) << test.name;
    for (size_t k = 0; k < gradients.size(); ++k) {
        const Tensor &x = test.inputs[k], &found = gradients[k];
        if (!found.defined()) continue;
        double largest = 0;
        for (int64_t i = 0; i < found.rows(); ++i)
            for (int64_t j = 0; j < found.row_size(); ++j)
                largest = std::max(largest, std::abs(double{get(found, i, j)}));
        for (int64_t i = 0; i < x.rows(); ++i)
            for (int64_t j = 0; j < x.row_size(); ++j) {
                const float value = get(x, i, j);
                const auto slope = [&](double h) {
                    const float above = static_cast<float>(value + h);
                    const float below = static_cast<float>(value - h);
                    set(x, i, j, above);
                    const double high = weighted_sum(test.forward(test.inputs), d_outputs);
                    set(x, i, j, below);
                    const double low = weighted_sum(test.forward(test.inputs), d_outputs);
                    set(x, i, j, value);
                    return (high - low) / (double{above} - below);
                };
                const double coarse = slope(test.step), fine = slope(test.step / 2);
                const double expected = (4 * fine - coarse) / 3;
                ASSERT_NEAR(get(found, i, j), expected, test.tolerance * (largest + 1e-3))
                    << test.name << ", input " << k << " [" << i << ", " << j << "]";
            }
    }
}

const Cases& all_cases() {
    static const Cases cases = [] {
        Cases made;
        for (void (*add)(Cases&) : adders()) add(made);
        return made;
    }();
    return cases;
}

AddCases::AddCases(void (*add)(Cases&)) {
    adders().push_back(add);
}

}  // namespace fucina::test
