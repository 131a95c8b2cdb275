#include <algorithm>
#include <vector>

#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/runtime.h"
#include "model/pass_memory.h"
#include "model/weight_grad_queue.h"

namespace fucina {

int64_t kernel_scratch(const ModelSpec& spec, const PassShape& shape, int64_t longest) {
    const MlaSpec& mla = spec.attention;
    const int64_t d = spec.hidden_size, heads = mla.heads / shape.tensor;
    const int64_t q = heads * mla.qk_dim();
    const int64_t down =
        (mla.q_lora_rank > 0 ? mla.q_lora_rank : q) + mla.kv_lora_rank + mla.rope_dim;
    const int64_t kv = heads * (mla.nope_dim + mla.v_dim);
    std::vector<int64_t> offsets{0};
    while (offsets.back() < shape.tokens)
        offsets.push_back(std::min(offsets.back() + longest, shape.tokens));
    const LeafTree grains = make_leaf_tree(offsets);
    const LeafTree chunks = make_nodes(offsets, false, shape.chunks)->front().tree;
    ops::WgradScratch most;
    int64_t matrix = 0;  // elements of the largest, which packing in FP8 holds once more
    const auto product = [&](int64_t n, int64_t k, DType type, const LeafTree& tree) {
        if (n == 0 || k == 0) return;
        matrix = std::max(matrix, n * k);
        const ops::WgradScratch one = ops::linear_wgrad_scratch(tree, n, k, type);
        most = {std::max(most.dy, one.dy), std::max(most.x, one.x), std::max(most.sums, one.sums)};
    };
    const DType type = shape.fp8 ? DType::f8_e4m3 : shape.compute;
    product(down, d, type, chunks);
    product(q, mla.q_lora_rank, type, grains);
    product(kv, mla.kv_lora_rank, type, grains);
    product(d, heads * mla.v_dim, type, grains);
    const int64_t dense = spec.dense_layers > 0 ? spec.dense_width : 0;
    for (const int64_t whole : {dense, spec.moe.shared_width}) {
        const int64_t width = whole / shape.tensor;
        product(2 * width, d, type, grains);
        product(d, width, type, grains);
    }
    if (spec.moe_layers() > 0) product(spec.moe.router.experts, d, DType::f32, chunks);
    const AttentionShape attention{.heads = heads,
                                   .kv_heads = heads,
                                   .d_qk = mla.qk_dim(),
                                   .d_shared = mla.rope_dim,
                                   .d_v = mla.v_dim,
                                   .chunks = std::max<int64_t>(shape.chunks / shape.tensor, 1),
                                   .cu_seqlens = tensor_of(kHost, offsets)};
    if (spec.moe_layers() > 0) matrix = std::max(matrix, 2 * d * spec.moe.expert_width);
    return (shape.fp8 ? 4 * matrix : 0) + runtime().threads * (most.dy + most.x + most.sums) +
           ops::attention_scratch(attention, shape.compute);
}

}  // namespace fucina
