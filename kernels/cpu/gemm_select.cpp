#include "kernels/cpu/gemm_select.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/cpu/levels.h"
#include "kernels/error.h"
#include "kernels/runtime.h"

namespace fucina::cpu {
namespace {

// Seconds of the quickest of a few products that lie in L1.
double quickest(const GemmKernel& kernel) {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t k = 256;
    std::vector<std::byte> a(static_cast<size_t>(kernel.a_bytes_per_k * k)), b(2 * kBlock * k);
    std::vector<float> c(kBlock * kBlock);
    double best = 1;
    for (int i = 0; i < 20; ++i) {
        const auto start = Clock::now();
        kernel.multiply(a.data(), b.data(), k, static_cast<int>(kBlock), false, c.data());
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
}

// VDPBF16PS has twice the rate of fp32 FMA on some CPUs and half of it on others.
bool dot_is_faster() {
    static const bool faster =
        quickest(avx512_bf16::kDotKernel) < 0.8 * quickest(avx512::kBf16Kernel);
    return faster;
}

const GemmKernel& bf16_kernel() {
    const Runtime& run = runtime();
    if (run.emulate_amx) return FUCINA_PICK(kEmulatedAmxKernel);
    if (run.level == IsaLevel::amx) return amx::kAmxKernel;
    if (run.numerics == Numerics::fast && run.has_avx512_bf16 && dot_is_faster())
        return avx512_bf16::kDotKernel;
    return FUCINA_PICK(kBf16Kernel);
}

}  // namespace

GemmSet gemm_set(DType type) {
    if (type == DType::f32)
        return {FUCINA_PICK(kFp32Kernel), FUCINA_PICK(kFp32Tools), FUCINA_PICK(kFp32Epilogues),
                size_of(type)};
    FUCINA_CHECK(type == DType::bf16, "matrix products take BF16 or F32, not ", name_of(type));
    return {bf16_kernel(), FUCINA_PICK(kBf16Tools), FUCINA_PICK(kBf16Epilogues), size_of(type)};
}

}  // namespace fucina::cpu
