// LatentCache: what MLA keeps of past tokens, kv_lora_rank + rope_dim numbers a token and layer,
// for all heads.
#pragma once
#include <cstdint>
#include <span>
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

// Tokens that follow those in a text's cache, or begin it.
struct Continuation {
    std::span<const int32_t> ids;
    LatentCache* cache = nullptr;
};

}  // namespace fucina
