// What a pass of the model is asked for, and what it reports.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/exact_sum.h"
#include "parallel/parameter.h"
#include "parallel/token_dispatcher.h"

namespace fucina {

// Scales are those of the whole step's objective, so that passes and ranks simply add up.
struct PassOptions {
    double loss_scale = 1;  // 1 / labels in the global batch
    double mtp_scale = 0;   // train.mtp_loss / MTP labels in the global batch; 0: MTP does not run
    double balance_scale = 0;  // train.balance_loss / sequences in the global batch; 0: none
    // An expert takes so many times its mean share of a grain's tokens, rounded up, in their order;
    // the others that chose it are dropped: it adds nothing to them. 0: none is dropped.
    double expert_capacity = 0;
    // Gradients of all but experts are those of each grain, a node of its own for grad_done.
    bool grains_apart = false;
    // What gradients of experts are sums of, each a node: all tokens, or where several ranks share
    // the experts out those of each rank, or those of each grain. The same on all of these ranks,
    // whose passes are calls of all.
    ExpertSums expert_sums = ExpertSums::together;
    bool weights_wait = false;  // backward leaves weights' gradients to a call of their own
    GradDone grad_done = {};
    std::function<void()> between_blocks =
        {};  // called after each, forward and backward; may be null
};

struct PassResult {
    ExactSum loss;      // of cross-entropy over labels, nats
    ExactSum mtp_loss;  // the same of MTP
    ExactSum balance;   // over sequences and layers, unscaled
    // [MoE layers, MTP's last][E] tokens routed, those that were dropped included.
    std::vector<std::vector<int64_t>> expert_counts;
    int64_t dropped = 0;  // pairs of a token and an expert, of all layers
};

}  // namespace fucina
