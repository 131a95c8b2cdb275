#include "kernels/cpu/gemm_select.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/cpu/levels.h"
#include "kernels/error.h"
#include "kernels/products.h"
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

const GemmKernel& bf16_kernel() {
    const Runtime& run = runtime();
    FUCINA_CHECK(offers(run.products), "products in the order ", name_of(run.products), " on ",
                 describe_runtime());
    if (run.products == ProductOrder::vdpbf16) return avx512_bf16::kDotKernel;
    if (run.products == ProductOrder::fma) return FUCINA_PICK(kFmaKernel);
    if (run.emulate_amx) return FUCINA_PICK(kEmulatedAmxKernel);
    if (run.level == IsaLevel::amx) return amx::kAmxKernel;
    return FUCINA_PICK(kBf16Kernel);
}

}  // namespace

GemmSet gemm_set(DType type) {
    if (type == DType::f32)
        return {FUCINA_PICK(kFp32Kernel), FUCINA_PICK(kFp32Tools), FUCINA_PICK(kFp32Epilogues),
                size_of(type)};
    if (type == DType::f8_e4m3 && runtime().numerics == Numerics::exact)
        return {FUCINA_PICK(kTensorCoreKernel), FUCINA_PICK(kBf16Tools),
                FUCINA_PICK(kBf16Epilogues), size_of(DType::bf16)};
    if (type == DType::f8_e4m3) type = DType::bf16;
    FUCINA_CHECK(type == DType::bf16, "matrix products take BF16, F32 or F8_E4M3, not ",
                 name_of(type));
    return {bf16_kernel(), FUCINA_PICK(kBf16Tools), FUCINA_PICK(kBf16Epilogues), size_of(type)};
}

}  // namespace fucina::cpu

namespace fucina {

ProductOffer product_offer() {
    ProductOffer offer;
    offer.tiles = runtime().level == IsaLevel::amx;
    offer.dots = offers(ProductOrder::vdpbf16);
    if (offer.dots == 0) return offer;
    // Once: the answer is the CPU's.
    static const double dot = cpu::quickest(cpu::avx512_bf16::kDotKernel);
    static const double chain = cpu::quickest(cpu::avx512::kFmaKernel);
    offer.dot_seconds = dot;
    offer.chain_seconds = chain;
    return offer;
}

ProductOffer common_offer(std::span<const ProductOffer> offers) {
    ProductOffer common{.tiles = 1, .dots = 1};
    for (const ProductOffer& offer : offers) {
        common.tiles &= offer.tiles;
        common.dots &= offer.dots;
        common.dot_seconds += offer.dot_seconds;
        common.chain_seconds += offer.chain_seconds;
    }
    return common;
}

ProductOrder fastest_products(const ProductOffer& offer) {
    if (offer.tiles != 0) return ProductOrder::amx;
    const bool dots = offer.dots != 0 && offer.dot_seconds < 0.8 * offer.chain_seconds;
    return dots ? ProductOrder::vdpbf16 : ProductOrder::fma;
}

}  // namespace fucina
