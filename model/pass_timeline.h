// What a pass holds at each moment, by size alone, and the most of it.
#pragma once
#include <algorithm>
#include <memory>

#include "model/grad_exchange.h"
#include "model/pass_memory.h"

namespace fucina {

// Memory that is held until the last copy of its handle goes, as a Tensor's is.
using Held = std::shared_ptr<const void>;

class Timeline {
  public:
    // exchange: of the gradients.
    Timeline(const PassShape& shape, GradExchange& exchange)
        : shape_(shape), exchange_(exchange), forward_apart_(shape.beside.forward > 0) {}

    Held hold(int64_t bytes) {
        activations_ += bytes;
        look();
        return {this, [this, bytes](const void*) { activations_ -= bytes; }};
    }
    // Forward is over. Where other micro-batches are under way it ran before the last of the
    // earlier passes' gradients were made, and the backward after it holds all that it did.
    void begin_backward() { forward_apart_ = false; }
    void make_gradient(int64_t elements, bool experts) {
        gradients_ += sums(experts) * 4 * elements;
        (experts ? experts_ : others_) += 4 * elements;
        look();
    }
    // It is whole, and added to earlier ones at once.
    void add_gradient(const GradExchange::Gradient& gradient) {
        const int64_t bytes = 4 * gradient.elements;
        const bool experts = gradient.experts, apart = shape_.apart && !experts;
        if (shape_.integers) {
            // A whole sum of 8 bytes becomes fp32, here or when it has been exchanged.
            gradients_ -= shape_.last && !exchange_.takes(experts) ? 2 * bytes : bytes;
        } else {
            gradients_ -= (apart ? sums(experts) - shape_.new_replicas : shape_.merges) * bytes;
            if (apart && shape_.last)
                gradients_ -= (shape_.replicas + shape_.new_replicas - 1) * bytes;
        }
        exchange_.add(gradient);
    }
    void change_gradients(int64_t bytes) {
        gradients_ += bytes;
        look();
    }

    int64_t activations() const { return activations_; }  // now
    // Those of earlier passes were there all the time, beside whatever there was.
    PassMemory most() const {
        PassMemory result = most_;
        result.all_gradients = experts_ + others_;
        result.expert_gradients = experts_;
        const int64_t before = shape_.integers
                                   ? shape_.held * 2 * result.all_gradients
                                   : shape_.held * experts_ / shape_.held_shards +
                                         (shape_.apart ? shape_.replicas : shape_.held) * others_;
        result.gradients += before;
        result.together += before;
        return result;
    }

  private:
    // That a gradient takes while it is made: a grain's at a time, beside those of new replicas.
    int sums(bool experts) const {
        if (shape_.integers) return shape_.held > 0 ? 1 : 3;
        if (!shape_.apart || experts) return 1;
        return shape_.new_replicas + (shape_.leaves > shape_.new_replicas ? 1 : 0);
    }
    void look() {
        most_.activations = std::max(most_.activations, activations_);
        most_.gradients = std::max(most_.gradients, gradients_);
        if (!forward_apart_) most_.together = std::max(most_.together, activations_ + gradients_);
    }

    const PassShape shape_;
    GradExchange& exchange_;
    bool forward_apart_;
    PassMemory most_;
    int64_t activations_ = 0, gradients_ = 0;
    int64_t experts_ = 0, others_ = 0;  // bytes of all gradients
};

}  // namespace fucina
