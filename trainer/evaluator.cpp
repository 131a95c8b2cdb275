#include "trainer/evaluator.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "parallel/grain_plan.h"
#include "trainer/pass_batch.h"

namespace fucina {

double evaluate_loss(Communicator& communicator, Model& model, const BatchLoader& valid,
                     int64_t at_a_time) {
    int64_t total = 0;
    std::vector<int64_t> ends;  // of each source, in the joint numbering of their sequences
    for (int64_t s = 0; s < valid.sources(); ++s) {
        ends.push_back(total += valid.source(s).sequences());
    }
    // One sum a sequence, as bits: a rank fills in its own, the others add zero.
    std::vector<int64_t> sums(static_cast<size_t>(total), 0);
    std::vector<int64_t> labels{0};
    const int64_t begin = total * communicator.rank() / communicator.size();
    const int64_t end = total * (communicator.rank() + 1) / communicator.size();
    for (int64_t first = begin; first < end; first += at_a_time) {
        PackedSequences packed;
        for (int64_t i = first; i < std::min(first + at_a_time, end); ++i) {
            const auto source = std::upper_bound(ends.begin(), ends.end(), i) - ends.begin();
            const PackedStore& store = valid.source(source);
            store.append(i - (ends[static_cast<size_t>(source)] - store.sequences()), packed);
        }
        labels[0] += packed.label_count();
        const TokenBatch batch = make_pass_batch(packed, 0, packed.sequences(), 1);
        const PassResult result = model.evaluate(batch);
        for (size_t i = 0; i < result.grain_loss.size(); ++i) {
            sums[static_cast<size_t>(first) + i] = std::bit_cast<int64_t>(result.grain_loss[i]);
        }
    }
    communicator.all_reduce_sum(sums);
    communicator.all_reduce_sum(labels);
    std::vector<double> losses;
    for (int64_t bits : sums) losses.push_back(std::bit_cast<double>(bits));
    if (labels[0] == 0) return 0;
    return tree_sum(losses.data(), total) / static_cast<double>(labels[0]);
}

}  // namespace fucina
