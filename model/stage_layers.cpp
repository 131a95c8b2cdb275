#include "model/stage_layers.h"

#include <algorithm>

#include "kernels/error.h"

namespace fucina {

int64_t layer_cost(const ModelSpec& spec, int64_t layer) {
    const MlaSpec& mla = spec.attention;
    const int64_t d = spec.hidden_size, q = mla.heads * mla.qk_dim();
    int64_t cost = mla.q_lora_rank > 0 ? mla.q_lora_rank * (d + q) : d * q;
    cost += d * (mla.kv_lora_rank + mla.rope_dim);
    cost += mla.kv_lora_rank * mla.heads * (mla.nope_dim + mla.v_dim);
    cost += mla.heads * mla.v_dim * d;
    if (!spec.is_moe(layer)) return cost + 3 * d * spec.dense_width;
    const MoeSpec& moe = spec.moe;
    return cost + 3 * d * (moe.router.top_k * moe.expert_width + moe.shared_width) +
           d * moe.router.experts;
}

int64_t end_cost(const ModelSpec& spec, bool with_mtp) {
    const int64_t d = spec.hidden_size, head = spec.vocab_size * d;
    return with_mtp ? 2 * head + 2 * d * d + layer_cost(spec, spec.layers) : head;
}

std::vector<int64_t> split_layers(const ModelSpec& spec, int stages, bool with_mtp) {
    FUCINA_CHECK(stages >= 1 && stages <= spec.layers, stages, " stages of ", spec.layers,
                 " layers");
    // Layer after layer as long as a stage does not cost more than `most`, and each later stage has
    // a layer left; the last stage takes what remains.
    const auto fill = [&](int64_t most) {
        std::vector<int64_t> counts(static_cast<size_t>(stages), 0);
        int64_t layer = 0;
        for (int stage = 0; stage + 1 < stages; ++stage) {
            int64_t cost = 0, &count = counts[static_cast<size_t>(stage)];
            while (spec.layers - layer > stages - stage - 1 &&
                   (count == 0 || cost + layer_cost(spec, layer) <= most)) {
                cost += layer_cost(spec, layer++);
                ++count;
            }
        }
        counts.back() = spec.layers - layer;
        return counts;
    };
    const auto costliest = [&](const std::vector<int64_t>& counts) {
        int64_t most = 0, layer = 0;
        for (size_t stage = 0; stage < counts.size(); ++stage) {
            int64_t cost = stage + 1 == counts.size() ? end_cost(spec, with_mtp) : 0;
            for (int64_t i = 0; i < counts[stage]; ++i) cost += layer_cost(spec, layer++);
            most = std::max(most, cost);
        }
        return most;
    };
    // Every sum of neighbouring layers is a candidate for what the costliest stage costs.
    std::vector<int64_t> best = fill(0);
    for (int64_t first = 0; first < spec.layers; ++first) {
        int64_t most = 0;
        for (int64_t layer = first; layer < spec.layers; ++layer) {
            most += layer_cost(spec, layer);
            const std::vector<int64_t> counts = fill(most);
            if (costliest(counts) < costliest(best)) best = counts;
        }
    }
    return best;
}

}  // namespace fucina
