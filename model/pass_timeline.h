// What a pass holds at each moment, by size alone, and the most of it.
#pragma once
#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <vector>

#include "model/pass_memory.h"

namespace fucina {

// Memory that is held until the last copy of its handle goes, as a Tensor's is.
using Held = std::shared_ptr<const void>;

class Timeline {
  public:
    explicit Timeline(const PassShape& shape) : shape_(shape) {}

    Held hold(int64_t bytes) {
        activations_ += bytes;
        look();
        return {this, [this, bytes](const void*) { activations_ -= bytes; }};
    }
    void make_gradient(int64_t elements, bool experts) {
        Bucket& bucket = buckets_[experts ? 1 : 0];
        if (shape_.bucket > 0 && bucket.bytes + 4 * elements / parts(elements) > shape_.bucket)
            exchange(bucket);
        gradients_ += sums(experts) * 4 * elements;
        (experts ? experts_ : others_) += 4 * elements;
        look();
    }
    // It is whole, and added to earlier ones at once. late: it is exchanged after all others, as
    // are all uses of the embedding.
    void add_gradient(int64_t elements, bool experts, bool late = false) {
        const bool apart = shape_.apart && !experts;
        if (shape_.integers) {
            gradients_ -= (shape_.last ? 8 : 4) * elements;  // a whole sum becomes fp32
            if (shape_.bucket > 0) late ? late_.push_back(elements) : fill(elements, experts);
            return;
        }
        gradients_ -= (apart ? sums(experts) - shape_.new_replicas : shape_.merges) * 4 * elements;
        if (apart && shape_.last)
            gradients_ -= (shape_.replicas + shape_.new_replicas - 1) * 4 * elements;
        if (shape_.bucket > 0) late ? late_.push_back(elements) : fill(elements, experts);
    }
    // What is left is exchanged.
    void end() {
        if (shape_.bucket == 0) return;
        for (const int64_t elements : late_) fill(elements, false);
        for (const bool experts : {true, false}) exchange(buckets_[experts ? 1 : 0]);
        for (const int64_t left : under_way_) gradients_ += left;
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
    struct Bucket {
        int64_t bytes = 0, leaving = 0, left = 0;
    };
    // As GradReducer fills buckets: of a gradient too large for one each takes a part.
    int64_t parts(int64_t elements) const {
        return (4 * elements + shape_.bucket - 1) / shape_.bucket;
    }
    void fill(int64_t elements, bool experts) {
        Bucket& bucket = buckets_[experts ? 1 : 0];
        const int64_t count = parts(elements), part = 4 * elements / count;
        const int shards = experts ? shape_.expert_shards : shape_.other_shards;
        for (int64_t i = 0; i < count; ++i) {
            if (bucket.bytes + part > shape_.bucket) exchange(bucket);
            bucket.bytes += part;
            // The first part makes room for our share of the sum, after the last it is all sent.
            if (i == 0) bucket.left += 4 * elements / shards;
            if (i == count - 1) bucket.leaving += 4 * elements;
        }
    }
    // Its gradients are sent, and when it has come, shares of their sums are left. So many buckets
    // are on their way.
    void exchange(Bucket& bucket) {
        gradients_ -= bucket.leaving;
        under_way_.push_back(bucket.left);
        if (under_way_.size() > 2) {
            gradients_ += under_way_.front();
            under_way_.pop_front();
        }
        bucket = {};
        look();
    }

    // That a gradient takes while it is made: a grain's at a time, beside those of new replicas.
    int sums(bool experts) const {
        if (shape_.integers) return shape_.held > 0 ? 1 : 3;
        if (!shape_.apart || experts) return 1;
        return shape_.new_replicas + (shape_.leaves > shape_.new_replicas ? 1 : 0);
    }
    void look() {
        most_.activations = std::max(most_.activations, activations_);
        most_.gradients = std::max(most_.gradients, gradients_);
        most_.together = std::max(most_.together, activations_ + gradients_);
    }

    const PassShape shape_;
    PassMemory most_;
    int64_t activations_ = 0, gradients_ = 0;
    int64_t experts_ = 0, others_ = 0;  // bytes of all gradients
    std::array<Bucket, 2> buckets_;     // of the others, of experts
    std::deque<int64_t> under_way_;
    std::vector<int64_t> late_;  // elements
};

}  // namespace fucina
