// Levels, threads and denormals of kernels/runtime.h, and the symbols of the per-level objects.
#include "kernels/runtime.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <xmmintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <memory>
#include <set>
#include <sstream>

#include "kernels/parallel_for.h"
#include "tests/kernels/levels.h"
#include "tests/support/kernel_case.h"
#include "tests/support/random_tensor.h"

namespace fucina {
namespace {

TEST(Runtime, ForcesEveryLevelThatTheCpuHas) {
    for (const std::string& level : test::isa_levels()) {
        force_isa(level);
        EXPECT_EQ(name_of(runtime().level), level == "amx-emulated" ? "amx" : level);
        EXPECT_LE(runtime().vector_level, IsaLevel::avx512_bf16);
    }
    force_isa("");
}

TEST(Runtime, RefusesOtherLevelsNamingWhatThereIs) {
    const auto message = [](std::string_view level) {
        try {
            force_isa(level);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::usage);
            return std::string(error.what());
        }
        return std::string();
    };
    EXPECT_NE(message("sse9").find("FUCINA_ISA=sse9 is unknown"), std::string::npos);
    if (best_isa() < IsaLevel::amx) {
        EXPECT_NE(message("amx").find(name_of(best_isa())), std::string::npos);
    }
}

TEST(Runtime, EveryThreadFlushesDenormals) {
    set_runtime(4, Numerics::exact);
    std::atomic<int> flushing{0};
#pragma omp parallel num_threads(4)
    _mm_setcsr(_mm_getcsr() & ~0x8040u);
    parallel_for(4, [&](int64_t) {
        if ((_mm_getcsr() & 0x8040u) == 0x8040u) ++flushing;
    });
    set_runtime(0, Numerics::exact);
    EXPECT_EQ(flushing, 4);
}

TEST(Runtime, ParallelForRunsEachIndexOnceAndPassesExceptionsOn) {
    set_runtime(3, Numerics::exact);
    std::array<std::atomic<int>, 10> count{};
    parallel_for(10, [&](int64_t i) { ++count[static_cast<size_t>(i)]; });
    for (const std::atomic<int>& c : count) EXPECT_EQ(c, 1);
    EXPECT_THROW(parallel_for(10, [](int64_t i) { FUCINA_CHECK(i != 7, "seven"); }), Error);
    set_runtime(0, Numerics::exact);
}

test::Tensors run_with(const test::KernelCase& kernel, int threads, Numerics numerics) {
    set_runtime(threads, numerics, runtime().products);
    return kernel.run(test::Version::fast, kernel.inputs);
}

using KernelCaseOrders = test::EveryOrder;

// Results must not depend on the number of threads.
TEST_P(KernelCaseOrders, SameBitsForAnyNumberOfThreads) {
    for (const test::KernelCase& kernel : test::all_cases().kernels) {
        const test::Tensors one = run_with(kernel, 1, Numerics::exact);
        const test::Tensors three = run_with(kernel, 3, Numerics::exact);
        for (size_t k = 0; k < one.size(); ++k)
            EXPECT_TRUE(test::bit_equal(one[k], three[k])) << kernel.name << ", output " << k;
    }
    set_runtime(0, Numerics::exact);
}

// Fast numerics may sum in another order and round denormals away, so a last bit of bf16 may differ
// here and there: 2^-7 of the largest element; fp32 outputs come of bf16 intermediates in some ops.
// Blocks of FP8's tokens begin where a leaf does, and it has other leaves: 2^-4 of values that add
// up to much less than the sum of their magnitudes.
TEST(KernelCases, FastNumericsAgreeWithExact) {
    for (const test::KernelCase& kernel : test::all_cases().kernels) {
        const test::Tensors exact = run_with(kernel, 2, Numerics::exact);
        const test::Tensors fast = run_with(kernel, 2, Numerics::fast);
        for (size_t k = 0; k < exact.size(); ++k) {
            if (exact[k].dtype() != DType::f32 && exact[k].dtype() != DType::bf16) {
                EXPECT_TRUE(test::bit_equal(exact[k], fast[k])) << kernel.name << ", output " << k;
                continue;
            }
            double largest = 0, error = 0;
            for (int64_t i = 0; i < exact[k].rows(); ++i)
                for (int64_t j = 0; j < exact[k].row_size(); ++j) {
                    const double want = test::get(exact[k], i, j);
                    if (!std::isfinite(want)) continue;
                    largest = std::max(largest, std::abs(want));
                    error = std::max(error, std::abs(test::get(fast[k], i, j) - want));
                }
            const bool other_blocks = kernel.name.find("wgrad F8_E4M3") != std::string::npos;
            EXPECT_LE(error, largest / (other_blocks ? 16 : 128))
                << kernel.name << ", output " << k;
        }
    }
    set_runtime(0, Numerics::exact);
}

#if !defined(__SANITIZE_ADDRESS__)
// The mangled namespace that an object of AVX code must keep to; empty for other objects.
std::string own_namespace(const std::string& object) {
    const auto is = [&](const char* part) { return object.find(part) != std::string::npos; };
    if (is("kernels_avx512_bf16")) return "6fucina3cpu11avx512_bf16";
    if (is("kernels_avx512")) return "6fucina3cpu6avx512";
    if (is("kernels_avx2")) return "6fucina3cpu4avx2";
    if (is("gemm_amx")) return "6fucina3cpu3amx";
    if (is("gemm_dot")) return "6fucina3cpu11avx512_bf16";
    return "";
}

// An object of AVX code must offer nothing outside its own namespace: the linker could take its
// copy of a shared inline function for everybody, which a plain CPU cannot run.
TEST(IsaObjects, DefineNothingOutsideTheirNamespace) {
    std::istringstream objects(FUCINA_KERNEL_OBJECTS);
    std::set<std::string> seen;
    for (std::string object; std::getline(objects, object, ':');) {
        const std::string name = own_namespace(object);
        if (name.empty()) continue;
        const std::unique_ptr<FILE, int (*)(FILE*)> pipe(
            popen(("nm --defined-only --extern-only '" + object + "'").c_str(), "r"), pclose);
        ASSERT_TRUE(pipe);
        char line[4096];
        while (std::fgets(line, sizeof line, pipe.get()) != nullptr) {
            std::istringstream fields(line);
            std::string address, kind, symbol;
            if (!(fields >> address >> kind >> symbol)) continue;
            EXPECT_TRUE(symbol.starts_with("_ZN" + name) || symbol.starts_with("_ZNK" + name))
                << symbol << " (" << kind << ") in " << object;
            seen.insert(name);
        }
    }
    EXPECT_EQ(seen.size(), 4U);
}
#endif

}  // namespace
}  // namespace fucina
