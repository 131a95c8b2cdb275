// LatentCache: what MLA keeps of past tokens, kv_lora_rank + rope_dim numbers a token and layer,
// for all heads.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/tensor.h"

namespace fucina {

struct LatentCache {
    struct Layer {
        Tensor c;       // [capacity, kv_lora_rank] normed latents
        Tensor k_rope;  // [capacity, rope_dim] rotated
    };
    std::vector<Layer> layers;
    int64_t capacity = 0, length = 0;  // tokens
};

}  // namespace fucina
