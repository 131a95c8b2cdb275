// Gradients that leave in buckets while backward makes them, by size alone: what GradReducer does
// with memory. Of the order of parameters only what matters is told.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "model/pass_memory.h"

namespace fucina {

class GradExchange {
  public:
    // In which the reducer takes them; of one kind as they are made.
    enum class Order { mtp, head_and_blocks, table };
    struct Gradient {
        int64_t elements = 0;
        bool experts = false;
        Order order = Order::head_and_blocks;
    };
    using Change = std::function<void(int64_t bytes)>;  // of gradients that are there

    // change hears of bytes that come and go, from plan() on.
    GradExchange(const PassShape& shape, Change change)
        : shape_(shape), change_(std::move(change)) {}

    // Whether ranks exchange such gradients in this pass.
    bool takes(bool experts) const {
        if (shape_.bucket == 0) return false;
        return experts ? shape_.expert_holders > 1 : shape_.other_holders > 1 && shape_.last;
    }
    // One is whole on this rank. The first time that a pass is gone through they are only noted.
    void add(const Gradient& gradient);
    // All were noted; from here on they are added again, in the same order.
    void plan();
    // What is under way arrives.
    void end();

  private:
    struct Sum {
        Gradient gradient;
        int parts = 1, started = 0, arrived = 0;
        bool added = false;
    };
    struct Bucket {
        bool experts = false;
        int64_t bytes = 0;
        std::vector<size_t> sums;  // a part of each
    };
    int64_t element() const { return shape_.integers ? 8 : 4; }
    // What is left of a sum is a tensor of its own; else its sum takes its place.
    bool apart() const { return shape_.shards || shape_.integers; }
    bool joins(const Sum& sum) const { return sum.gradient.experts && shape_.joins; }
    int64_t own(const Sum& sum) const { return element() * sum.gradient.elements; }
    int64_t left(const Sum& sum) const;
    bool ready(const Bucket& bucket) const;
    void start_ready();
    void start(const Bucket& bucket);
    void complete();

    const PassShape shape_;
    const Change change_;
    std::vector<Sum> sums_;
    std::vector<Bucket> buckets_;
    bool planned_ = false;
    size_t next_sum_ = 0, next_bucket_ = 0;
    std::deque<const Bucket*> under_way_;
};

}  // namespace fucina
