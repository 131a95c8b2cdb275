// KernelCase: one kernel on one shape, said once. It runs as parity (fast against reference, in
// every setting, such as each instruction-set level of this CPU, and bit for bit among them), for
// any number of threads, and, at a larger shape, as bench.
// GradientCase: a backward against finite differences of its forward.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/exec.h"

namespace fucina::test {

enum class Version { fast, reference };

using Tensors = std::vector<Tensor>;

struct KernelCase {
    std::string name;  // "rmsnorm BF16 [33, 7168]"
    Tensors inputs;    // on the host; run() gets them where it runs
    // Returns new outputs, made by exec(); must not change the inputs.
    std::function<Tensors(Version, const Tensors&)> run;
    // |fast - reference| <= tolerance · (|reference| + scale of the tensor), where the scale is its
    // root mean square. 0: the same bits.
    double tolerance = 0;
    const char* reason = "";  // why this tolerance
    double flops = 0;         // of one run; 0: bound by memory
    double bytes = 0;         // read and written
    // For the bench, where run() does more than the kernel (packs weights, say): makes everything
    // and returns what is timed.
    std::function<std::function<void()>(const Tensors&)> timed;
};

// Where run() and backward() run now: the host, or the setting's back end.
const Exec& exec();
void set_exec(const Exec& where);  // for a bench; the checks below do so themselves

struct GradientCase {
    std::string name;
    Tensors inputs;                                  // fp32, small
    std::function<Tensors(const Tensors&)> forward;  // outputs, fp32
    // Gradients of sum(outputs · d_outputs) with respect to each input; undefined: not checked.
    std::function<Tensors(const Tensors& inputs, const Tensors& d_outputs)> backward;
    double step = 1e-2;
    double tolerance = 2e-3;  // of the gradient's largest element; fp32 forward, see check_gradient
};

// Every level that the CPU has, and `amx-emulated` where it has no AMX.
std::vector<std::string> isa_levels();

// One way to run the fast version: an instruction-set level, or a schedule of the SIMT executor.
struct Setting {
    std::string name;
    std::function<void()> enter, leave;
    Exec exec = kHost;
};
// Of the levels that offer the order of products in force.
std::vector<Setting> isa_settings();

// Adds GoogleTest failures that name case, setting, output, place, and both values. All settings
// must give the same bits.
void check_parity(const KernelCase& test, const std::vector<Setting>& settings = isa_settings());
void check_gradient(const GradientCase& test, const Exec& where = kHost);

struct Cases {
    std::vector<KernelCase> kernels;
    std::vector<GradientCase> gradients;
    std::vector<std::function<KernelCase()>> bench;  // large shapes, made one at a time
};

// All cases, made at the first call; each file of tests/kernels/*_cases.cpp adds its own.
const Cases& all_cases();

// At namespace scope: const AddCases kNorm([](Cases& cases) { cases.kernels.push_back(...); });
struct AddCases {
    explicit AddCases(void (*add)(Cases&));
};

}  // namespace fucina::test
