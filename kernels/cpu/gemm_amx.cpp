// bf16 matrix products on the CPU's AMX tiles: 0-3 hold C, 4 and 5 A, 6 and 7 B.
#include "kernels/cpu/amx_kernel.h"

namespace fucina::cpu::FUCINA_ISA {
namespace {

struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

alignas(64) constexpr TileConfig kConfig = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// Once per thread; the operand is all of the 64 bytes, which _tile_loadconfig of gcc 12 does not
// say. Permission to use tiles was asked for when the CPU was probed (kernels/runtime.cpp).
void configure() {
    static thread_local bool done = false;
    if (done) return;
    asm volatile("ldtilecfg %0" ::"m"(kConfig));
    done = true;
}

class HardwareTiles {
  public:
    HardwareTiles() { configure(); }

    void zero() {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    void load(const float* c) {
        _tile_loadd(0, c, kRowBytes);
        _tile_loadd(1, c + 16, kRowBytes);
        _tile_loadd(2, c + kTileRows * kBlock, kRowBytes);
        _tile_loadd(3, c + kTileRows * kBlock + 16, kRowBytes);
    }
    void store(float* c) const {
        _tile_stored(0, c, kRowBytes);
        _tile_stored(1, c + 16, kRowBytes);
        _tile_stored(2, c + kTileRows * kBlock, kRowBytes);
        _tile_stored(3, c + kTileRows * kBlock + 16, kRowBytes);
    }
    // A streams from L2 past the panel of B, which is to stay in L1.
    void step(const uint16_t* a, const uint16_t* b) {
        _tile_stream_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + kTileElements, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_stream_loadd(5, a + kTileElements, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    void half_step(const uint16_t* a, const uint16_t* b) {
        _tile_stream_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + kTileElements, 64);
        _tile_dpbf16ps(1, 4, 7);
    }

    static double burst(int64_t repeats) {
        configure();
        for (int64_t i = 0; i < repeats; ++i) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        return 4 * 2.0 * kTileRows * kTileRows * 32 * static_cast<double>(repeats);
    }

  private:
    static constexpr int64_t kRowBytes = kBlock * sizeof(float);
};

}  // namespace

constinit const GemmKernel kAmxKernel = amx_kernel<HardwareTiles>();

}  // namespace fucina::cpu::FUCINA_ISA
