#include "parallel/token_dispatcher.h"

#include <numeric>

#include "kernels/error.h"

namespace fucina {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
    return std::as_bytes(std::span(values));
}

// Slots of each (rank, grain, expert here), as they were received.
class Counts {
  public:
    Counts(std::vector<int64_t> grains, std::vector<int64_t> counts, int64_t experts, int tensor)
        : grains_(std::move(grains)),
          counts_(std::move(counts)),
          experts_(experts),
          tensor_(static_cast<size_t>(tensor)) {
        int64_t before = 0;
        for (const int64_t count : grains_) {
            first_.push_back(before);
            before += count * experts;
        }
    }
    size_t ranks() const { return grains_.size(); }
    size_t sources() const { return ranks() / tensor_; }
    int64_t experts() const { return experts_; }
    // Of each part.
    std::vector<int64_t> leaves(ExpertSums sums) const {
        std::vector<int64_t> leaves;
        for (size_t source = 0; source < sources(); ++source) {
            const int64_t grains = grains_[source * tensor_];
            if (sums == ExpertSums::by_source)
                leaves.push_back(grains);
            else
                leaves.insert(leaves.end(), static_cast<size_t>(grains), 1);
        }
        return leaves;
    }
    // body(rank) for a grain's pieces, one of each rank of the source; after them end().
    template <class Body, class End>
    void for_each_grain(size_t source, const Body& body, const End& end) const {
        const size_t first = source * tensor_;
        for (int64_t grain = 0; grain < grains_[first]; ++grain) {
            for (size_t rank = first; rank < first + tensor_; ++rank) body(rank, grain);
            end();
        }
    }
    int64_t of(size_t rank, int64_t grain, int64_t expert) const {
        return counts_[static_cast<size_t>(first_[rank] + grain * experts_ + expert)];
    }
    int64_t of(size_t rank, int64_t expert) const {
        int64_t sum = 0;
        for (int64_t grain = 0; grain < grains_[rank]; ++grain) sum += of(rank, grain, expert);
        return sum;
    }

  private:
    std::vector<int64_t> grains_, counts_, first_;
    int64_t experts_;
    size_t tensor_;
};

// The rows of the experts here, expert by expert, of each those of the grains in the order of
// sources, of each grain those of the ranks that share it.
TokenMap map_experts(const Counts& counts) {
    TokenMap map;
    map.expert_offsets.push_back(0);
    std::vector<int64_t> next;  // row of each rank; a rank's rows are in the order of experts
    int64_t row = 0;
    for (size_t rank = 0; rank < counts.ranks(); ++rank) {
        next.push_back(row);
        for (int64_t e = 0; e < counts.experts(); ++e) row += counts.of(rank, e);
    }
    for (int64_t e = 0; e < counts.experts(); ++e) {
        std::vector<int64_t> ends{0};
        const int64_t first = std::ssize(map.slot_token);
        for (size_t source = 0; source < counts.sources(); ++source)
            counts.for_each_grain(
                source,
                [&](size_t rank, int64_t grain) {
                    for (int64_t i = counts.of(rank, grain, e); i > 0; --i)
                        map.slot_token.push_back(static_cast<int32_t>(next[rank]++));
                },
                [&] { ends.push_back(std::ssize(map.slot_token) - first); });
        map.expert_offsets.push_back(map.expert_offsets.back() + ends.back());
        map.trees.push_back(make_leaf_tree(std::move(ends)));
    }
    return map;
}

}  // namespace

std::vector<SlotPart> part_slots(const TokenMap& map, std::span<const int64_t> leaves) {
    std::vector<SlotPart> parts(leaves.size());
    for (SlotPart& part : parts) part.offsets.push_back(0);
    for (size_t e = 0; e < map.trees.size(); ++e) {
        int64_t slot = map.expert_offsets[e];
        size_t leaf = 0;
        for (size_t p = 0; p < parts.size(); ++p) {
            SlotPart& part = parts[p];
            const std::vector<int64_t>& offsets = map.trees[e].offsets;
            std::vector<int64_t> ends;
            for (int64_t i = 0; i <= leaves[p]; ++i)
                ends.push_back(offsets[leaf + static_cast<size_t>(i)] - offsets[leaf]);
            leaf += static_cast<size_t>(leaves[p]);
            for (int64_t i = ends.back(); i > 0; --i, ++slot) {
                part.slots.push_back(static_cast<int32_t>(slot));
                part.rows.push_back(map.slot_token[static_cast<size_t>(slot)]);
            }
            part.offsets.push_back(part.offsets.back() + ends.back());
            part.trees.push_back(make_leaf_tree(std::move(ends)));
        }
    }
    return parts;
}

TokenDispatcher::TokenDispatcher(Communicator& ranks, int64_t experts, int tensor)
    : ranks_(ranks), tensor_(tensor) {
    for (int rank = 0; rank <= ranks.size(); ++rank)
        first_.push_back(experts * rank / ranks.size());
}

std::shared_ptr<const TokenExchange> TokenDispatcher::plan(const TokenMap& map, int64_t grains,
                                                           ExpertSums sums) const {
    const auto ranks = static_cast<size_t>(ranks_.size());
    const auto own = static_cast<size_t>(ranks_.rank());
    auto exchange = std::make_shared<TokenExchange>();
    std::vector<int64_t> all_grains(ranks);
    ranks_.all_gather(bytes_of(std::vector<int64_t>{grains}),
                      std::as_writable_bytes(std::span(all_grains)));
    std::vector<int64_t> counts, sent, received;  // bytes of counts
    const int64_t here = first_[own + 1] - first_[own];
    for (size_t rank = 0; rank < ranks; ++rank) {
        const auto begin = static_cast<size_t>(first_[rank]);
        const auto end = static_cast<size_t>(first_[rank + 1]);
        exchange->sent.push_back(map.expert_offsets[end] - map.expert_offsets[begin]);
        for (size_t grain = 0; grain < static_cast<size_t>(grains); ++grain)
            for (size_t e = begin; e < end; ++e)
                counts.push_back(map.trees[e].offsets[grain + 1] - map.trees[e].offsets[grain]);
        sent.push_back(8 * grains * static_cast<int64_t>(end - begin));
        received.push_back(8 * all_grains[rank] * here);
    }
    std::vector<int64_t> theirs(
        static_cast<size_t>(std::accumulate(received.begin(), received.end(), int64_t{0}) / 8));
    ranks_.all_to_all_v(bytes_of(counts), sent, std::as_writable_bytes(std::span(theirs)),
                        received);
    const Counts by_expert(std::move(all_grains), std::move(theirs), here, tensor_);
    for (size_t rank = 0; rank < ranks; ++rank) {
        exchange->received.push_back(0);
        for (int64_t e = 0; e < here; ++e) exchange->received.back() += by_expert.of(rank, e);
    }
    exchange->experts = map_experts(by_expert);
    if (sums != ExpertSums::together)
        exchange->parts = part_slots(exchange->experts, by_expert.leaves(sums));
    return exchange;
}

TokenDispatcher::Move TokenDispatcher::move(const Tensor& from, std::span<const int64_t> sent,
                                            std::span<const int64_t> received) const {
    const int64_t rows = std::accumulate(received.begin(), received.end(), int64_t{0});
    FUCINA_CHECK(
        from.contiguous() && from.rows() == std::accumulate(sent.begin(), sent.end(), int64_t{0}),
        "rows to exchange are ", from.describe());
    const int64_t width = from.dim(1), row_bytes = width * size_of(from.dtype());
    Tensor to = Tensor::empty({rows, width}, from.dtype());
    std::vector<int64_t> out, in;
    for (size_t rank = 0; rank < sent.size(); ++rank) {
        out.push_back(sent[rank] * row_bytes);
        in.push_back(received[rank] * row_bytes);
    }
    auto request = ranks_.start_all_to_all_v({from.raw(), static_cast<size_t>(from.bytes())}, out,
                                             {to.raw(), static_cast<size_t>(to.bytes())}, in);
    return {from, std::move(to), std::move(request)};
}

TokenDispatcher::Move TokenDispatcher::start_dispatch(const TokenExchange& exchange,
                                                      const Tensor& slots) const {
    return move(slots, exchange.sent, exchange.received);
}

TokenDispatcher::Move TokenDispatcher::start_combine(const TokenExchange& exchange,
                                                     const Tensor& rows) const {
    return move(rows, exchange.received, exchange.sent);
}

Tensor TokenDispatcher::dispatch(const TokenExchange& exchange, const Tensor& slots) const {
    return start_dispatch(exchange, slots).finish();
}

Tensor TokenDispatcher::combine(const TokenExchange& exchange, const Tensor& rows) const {
    return start_combine(exchange, rows).finish();
}

}  // namespace fucina
