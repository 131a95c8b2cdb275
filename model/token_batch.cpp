#include "model/token_batch.h"

#include "kernels/embedding.h"

namespace fucina {

TokenBatch make_batch(std::span<const std::vector<int32_t>> documents) {
    TokenBatch batch;
    for (const std::vector<int32_t>& document : documents) {
        for (size_t t = 0; t < document.size(); ++t) {
            batch.ids.push_back(document[t]);
            batch.positions.push_back(static_cast<int32_t>(t));
            batch.labels.push_back(t + 1 < document.size() ? document[t + 1] : kIgnoreLabel);
        }
        if (document.empty()) continue;
        for (auto* offsets : {&batch.cu_seqlens, &batch.sequence_offsets, &batch.grain_offsets})
            offsets->push_back(batch.tokens());
    }
    return batch;
}

int64_t count_labels(const TokenBatch& batch) {
    int64_t labels = 0;
    for (const int32_t label : batch.labels) labels += label != kIgnoreLabel;
    return labels;
}

}  // namespace fucina
