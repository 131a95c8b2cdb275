#include "parallel/pipeline_schedule.h"

#include <algorithm>

#include "kernels/error.h"

namespace fucina {
namespace {

// Forwards and backwards of all chunks in their order, as many forwards first as `ahead`, then one
// of each in turn, and the backwards that are left.
std::vector<Action> interleave(const std::vector<Action>& forwards,
                               const std::vector<Action>& backwards, size_t ahead) {
    std::vector<Action> actions;
    size_t next = std::min(ahead, forwards.size());
    actions.insert(actions.end(), forwards.begin(),
                   forwards.begin() + static_cast<std::ptrdiff_t>(next));
    for (const Action& backward : backwards) {
        if (next < forwards.size()) actions.push_back(forwards[next++]);
        actions.push_back(backward);
    }
    return actions;
}

// Micro-batches go through a rank's chunks in groups of as many as there are ranks. The last group
// is filled up with ones that do not exist and are left out again, which leaves the order of the
// others as it is, and so without cycles.
std::vector<Action> chunked(int ranks, int rank, int micro_batches, int chunks) {
    std::vector<Action> forwards, backwards;
    for (int first = 0; first < micro_batches; first += ranks) {
        for (int chunk = 0; chunk < chunks; ++chunk) {
            for (int micro_batch = first; micro_batch < first + ranks; ++micro_batch) {
                forwards.push_back({Action::forward, micro_batch, chunk});
                backwards.push_back({Action::backward, micro_batch, chunks - 1 - chunk});
            }
        }
    }
    const int ahead =
        chunks == 1 ? ranks - rank - 1 : 2 * (ranks - rank - 1) + (chunks - 1) * ranks;
    std::vector<Action> actions = interleave(forwards, backwards, static_cast<size_t>(ahead));
    std::erase_if(actions,
                  [&](const Action& action) { return action.micro_batch >= micro_batches; });
    return actions;
}

// The later a stage, the fewer micro-batches are under way before their backward, and the more
// weight gradients may wait.
std::vector<Action> zero_bubble(int ranks, int rank, int micro_batches) {
    std::vector<Action> actions;
    int weights = 0;
    for (const Action& action : chunked(ranks, rank, micro_batches, 1)) {
        actions.push_back(action);
        if (action.kind == Action::backward && action.micro_batch >= rank)
            actions.push_back({Action::weight_grads, weights++, 0});
    }
    while (weights < micro_batches) actions.push_back({Action::weight_grads, weights++, 0});
    return actions;
}

}  // namespace

std::vector<Action> schedule_actions(Schedule schedule, int ranks, int rank, int micro_batches,
                                     int chunks) {
    FUCINA_CHECK(rank >= 0 && rank < ranks && micro_batches >= 0 && chunks >= 1 &&
                     (chunks == 1 || schedule == Schedule::interleaved),
                 "rank ", rank, " of ", ranks, ", ", micro_batches, " micro-batches, ", chunks,
                 " chunks");
    if (schedule == Schedule::zero_bubble) return zero_bubble(ranks, rank, micro_batches);
    return chunked(ranks, rank, micro_batches, chunks);
}

Schedule schedule_named(std::string_view name) {
    if (name == "1f1b") return Schedule::one_forward_one_backward;
    if (name == "interleaved") return Schedule::interleaved;
    FUCINA_CHECK(name == "zero_bubble", "no schedule is called ", name);
    return Schedule::zero_bubble;
}

}  // namespace fucina
