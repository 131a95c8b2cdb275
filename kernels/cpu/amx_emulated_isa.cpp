// AMX tiles in software: TDPBF16PS as Intel's manual defines it, so that the AMX code path can be
// tested on any CPU. Needs DAZ and FTZ, as every kernel does.
#include "kernels/cpu/amx_kernel.h"
#include "kernels/cpu/fma_burst.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

class EmulatedTiles {
  public:
    void zero() {
        for (float& x : c_) x = 0;
    }
    void load(const float* c) { __builtin_memcpy(c_, c, sizeof c_); }
    void store(float* c) const { __builtin_memcpy(c, c_, sizeof c_); }

    void step(const uint16_t* a, const uint16_t* b) {
        half_step(a, b);
        product(a + kTileElements, b, c_ + kTileRows * kBlock);
        product(a + kTileElements, b + kTileElements, c_ + kTileRows * kBlock + 16);
    }
    void half_step(const uint16_t* a, const uint16_t* b) {
        product(a, b, c_);
        product(a, b + kTileElements, c_ + 16);
    }

    static double burst(int64_t repeats) { return fma_burst(repeats); }

  private:
    // TDPBF16PS: one FMA chain over the even, one over the odd elements, their sum added to C.
    static void product(const uint16_t* a, const uint16_t* b, float* c) {
        for (int row = 0; row < kTileRows; ++row) {
            Vec even = zero_lanes(), odd = zero_lanes();
            for (int pair = 0; pair < 16; ++pair) {
                const uint16_t* left = a + row * 32 + 2 * pair;
                even = fma(set1(bf16_float(left[0])), load_even(b + pair * 32), even);
                odd = fma(set1(bf16_float(left[1])), load_odd(b + pair * 32), odd);
            }
            float* out = c + row * kBlock;
            FUCINA_ISA::store(out, add(FUCINA_ISA::load(out), add(even, odd)));
        }
    }
    static Vec zero_lanes() { return FUCINA_ISA::zero(); }

    float c_[kBlock * kBlock];
};

}  // namespace

constinit const GemmKernel kEmulatedAmxKernel = amx_kernel<EmulatedTiles>();

}  // namespace fucina::cpu::FUCINA_ISA
