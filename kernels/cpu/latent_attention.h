// The inner loops of decoding with MLA, one table per instruction set and dtype of the cache.
#pragma once
#include <cstdint>

#include "kernels/cpu/levels.h"

namespace fucina::cpu {

// One head of one query.
struct LatentHead {
    const void* q;  // nope | rope
    int64_t nope, rope, v, rank;
    float scale;
    const void *c, *k_rope;  // rows of `visible` tokens
    int64_t c_stride, rope_stride, visible;
    const float* kv_up;  // nope + v rows of `rank`
    float* scratch;      // nope + rope + 2 rank + visible floats, and 64 more
    void* out;           // [v]
};

struct LatentKernels {
    void (*head)(const LatentHead& in);
};

FUCINA_DECLARE_LEVELS(LatentKernels, kBf16Latent)
FUCINA_DECLARE_LEVELS(LatentKernels, kFp32Latent)

}  // namespace fucina::cpu
