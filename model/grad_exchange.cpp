#include "model/grad_exchange.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "parallel/grad_reducer.h"

namespace fucina {

int64_t GradExchange::left(const Sum& sum) const {
    const int holders = sum.gradient.experts ? shape_.expert_holders : shape_.other_holders;
    return 4 * sum.gradient.elements / (shape_.shards ? holders : 1);
}

void GradExchange::add(const Gradient& gradient) {
    if (!takes(gradient.experts)) return;
    if (!planned_) {
        sums_.push_back({.gradient = gradient});
        return;
    }
    sums_[next_sum_++].added = true;
    start_ready();
}

void GradExchange::plan() {
    planned_ = true;
    std::vector<size_t> order(sums_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, {}, [&](size_t i) { return sums_[i].gradient.order; });
    std::array<Bucket, 2> open{Bucket{}, Bucket{.experts = true}};
    const auto close = [&](Bucket& full) {
        if (full.sums.empty()) return;
        buckets_.push_back(full);
        full = {.experts = full.experts};
    };
    for (const size_t i : order) {
        Sum& sum = sums_[i];
        Bucket& filled = open[sum.gradient.experts ? 1 : 0];
        sum.parts = static_cast<int>((own(sum) + shape_.bucket - 1) / shape_.bucket);
        for (int part = 0; part < sum.parts; ++part) {
            if (filled.bytes + own(sum) / sum.parts > shape_.bucket) close(filled);
            filled.sums.push_back(i);
            filled.bytes += own(sum) / sum.parts;
        }
    }
    close(open[1]);
    close(open[0]);
}

bool GradExchange::ready(const Bucket& bucket) const {
    return std::ranges::all_of(bucket.sums, [&](size_t i) { return sums_[i].added; });
}

void GradExchange::start_ready() {
    for (; next_bucket_ < buckets_.size(); ++next_bucket_) {
        if (!ready(buckets_[next_bucket_])) return;
        if (under_way_.size() == GradReducer::kUnderWay) complete();
        start(buckets_[next_bucket_]);
    }
}

void GradExchange::start(const Bucket& bucket) {
    for (const size_t i : bucket.sums)
        if (++sums_[i].started == sums_[i].parts && apart()) change_(-own(sums_[i]));
    under_way_.push_back(&bucket);
}

// A sum's first part makes room for all that will be left of it.
void GradExchange::complete() {
    const Bucket& bucket = *under_way_.front();
    under_way_.pop_front();
    for (const size_t i : bucket.sums)
        if (++sums_[i].arrived == 1 && apart()) change_(left(sums_[i]));
    for (const size_t i : bucket.sums) {
        const Sum& sum = sums_[i];
        if (sum.arrived == sum.parts && joins(sum)) change_(-(apart() ? left(sum) : own(sum)));
    }
}

void GradExchange::end() {
    while (!under_way_.empty()) complete();
}

}  // namespace fucina
