#include "trainer/evaluator.h"

#include <algorithm>
#include <numbers>
#include <vector>

#include "trainer/pass_batch.h"

namespace fucina {

namespace {

int64_t bytes_of(const std::vector<int32_t>& labels, std::span<const int32_t> token_bytes) {
    int64_t bytes = 0;
    for (const int32_t label : labels) {
        if (label >= 0 && static_cast<size_t>(label) < token_bytes.size())
            bytes += token_bytes[static_cast<size_t>(label)];
    }
    return bytes;
}

}  // namespace

HeldOutLoss evaluate_loss(const Mesh& mesh, Model& model, const BatchLoader& valid,
                          int64_t at_a_time, std::span<const int32_t> token_bytes) {
    int64_t total = 0;
    std::vector<int64_t> ends;  // of each source, in the joint numbering of their sequences
    for (int64_t s = 0; s < valid.sources(); ++s) {
        ends.push_back(total += valid.source(s).sequences());
    }
    ExactSum sum;
    std::vector<int64_t> counts{0, 0};  // tokens predicted, and their bytes
    Communicator& communicator = mesh.data();
    const int64_t rank = communicator.rank(), ranks = communicator.size();
    const int64_t begin = total * rank / ranks, end = total * (rank + 1) / ranks;
    // Ranks that share out experts or weights go through their passes together, the last ones
    // empty.
    const bool together = mesh.shape().expert > 1 || model.options().weight_shards;
    const int64_t most = together ? (total + ranks - 1) / ranks : end - begin;
    for (int64_t first = begin; first < begin + most; first += at_a_time) {
        communicator.progress(Phase::evaluate);
        PackedSequences packed;
        for (int64_t i = first; i < std::min(first + at_a_time, end); ++i) {
            const auto source = std::upper_bound(ends.begin(), ends.end(), i) - ends.begin();
            const PackedStore& store = valid.source(source);
            store.append(i - (ends[static_cast<size_t>(source)] - store.sequences()), packed);
        }
        counts[0] += packed.label_count();
        counts[1] += bytes_of(packed.labels, token_bytes);
        const TokenBatch batch = make_pass_batch(packed, 0, packed.sequences(), 1);
        sum.add(model.evaluate(batch).loss);
    }
    communicator.all_reduce_sum(sum.words());
    mesh.pipeline().all_reduce_sum(sum.words());  // of the last stage alone
    communicator.all_reduce_sum(counts);
    HeldOutLoss result;
    if (counts[0] == 0) return result;
    const double nats = sum.value();
    result.nats_per_token = nats / static_cast<double>(counts[0]);
    if (counts[1] > 0)
        result.bits_per_byte = nats / std::numbers::ln2 / static_cast<double>(counts[1]);
    return result;
}

}  // namespace fucina
