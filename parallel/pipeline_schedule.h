// What each stage of a pipeline does, in which order. Pure functions of sizes alone: every rank
// makes its own list, and all lists together are one order without cycles, so that a rank may wait
// for what the next action of its list needs.
//
// A rank holds `chunks` stages of the model, whose blocks come in the order of chunks and, within a
// chunk, of ranks: chunk c of rank r is stage c * ranks + r of them all. More than one chunk is
// what "interleaved" takes.
#pragma once
#include <string_view>
#include <vector>

namespace fucina {

struct Action {
    enum Kind {
        forward,
        backward,      // gradients of the inputs, and of weights unless weight_grads follows
        weight_grads,  // deferred, of the same micro-batch
    };
    Kind kind = forward;
    int micro_batch = 0;
    int chunk = 0;
    bool operator==(const Action&) const = default;
};

enum class Schedule {
    // Backward as early as can be: rank r has at most ranks - r micro-batches under way
    // (arXiv 1806.03377, 2104.04473 §2.2.1).
    one_forward_one_backward,
    // The same over several chunks a rank: the bubble shrinks by their number, messages and
    // micro-batches under way grow (2104.04473 §2.2.2).
    interleaved,
    // 1F1B whose weight gradients wait and fill the bubble; at most `ranks` micro-batches are under
    // way (ZB-H1, 2401.10241 §2.2).
    zero_bubble,
};

// The actions of rank `rank` of `ranks`. Within a chunk forwards, backwards and weight gradients
// each come in ascending order of micro-batches. chunks: 1 unless interleaved.
std::vector<Action> schedule_actions(Schedule schedule, int ranks, int rank, int micro_batches,
                                     int chunks);

// After which a micro-batch is done with.
constexpr Action::Kind last_action(Schedule schedule) {
    return schedule == Schedule::zero_bubble ? Action::weight_grads : Action::backward;
}

// "1f1b", "interleaved" or "zero_bubble".
Schedule schedule_named(std::string_view name);

}  // namespace fucina
