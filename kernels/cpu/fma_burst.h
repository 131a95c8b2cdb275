// FMA in registers: the peak of every kernel that multiplies by FMA (GemmKernel::burst).
#pragma once
#include "kernels/cpu/simd.h"

namespace fucina::cpu::FUCINA_ISA {

inline double fma_burst(int64_t repeats) {
#if defined(__AVX512F__)
    constexpr int kChains = 12;
#else
    constexpr int kChains = 6;  // a vector is two of AVX2's 16 registers
#endif
    const volatile float one =
        1;  // read anew for each lane: to the compiler, no two chains are one
    const Vec left = set1(one), right = set1(one);
    float lanes[kLanes];
    Vec sum[kChains];
    for (Vec& x : sum) {
        for (float& lane : lanes) lane = one;
        x = load(lanes);
    }
    for (int64_t i = 0; i < repeats; ++i)
#pragma GCC unroll 12
        for (Vec& x : sum) x = fma(left, right, x);
    for (const Vec& x : sum) {
        store(lanes, x);
        const volatile float used = lanes[0] + lanes[kLanes - 1];
        static_cast<void>(used);
    }
    return 2.0 * kLanes * kChains * static_cast<double>(repeats);
}

}  // namespace fucina::cpu::FUCINA_ISA
