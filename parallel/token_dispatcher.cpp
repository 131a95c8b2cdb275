#include "parallel/token_dispatcher.h"

#include <algorithm>
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
    // Of experts [begin, end).
    int64_t of_experts(size_t rank, int64_t begin, int64_t end) const {
        int64_t sum = 0;
        for (int64_t grain = 0; grain < grains_[rank]; ++grain)
            for (int64_t e = begin; e < end; ++e) sum += of(rank, grain, e);
        return sum;
    }

  private:
    std::vector<int64_t> grains_, counts_, first_;
    int64_t experts_;
    size_t tensor_;
};

// The rows of the experts [begin, end) here, expert by expert, of each those of the grains in the
// order of sources, of each grain those of the ranks that share it.
TokenMap map_experts(const Exec& exec, const Counts& counts, int64_t begin, int64_t end) {
    std::vector<int64_t> next;  // row of each rank; a rank's rows are in the order of experts
    int64_t row = 0;
    for (size_t rank = 0; rank < counts.ranks(); ++rank) {
        next.push_back(row);
        row += counts.of_experts(rank, begin, end);
    }
    std::vector<int64_t> offsets{0}, leaves;
    std::vector<int32_t> rows;
    for (int64_t e = 0; e < counts.experts(); ++e) {
        leaves.push_back(offsets.back());
        for (size_t source = 0; source < counts.sources(); ++source)
            counts.for_each_grain(
                source,
                [&](size_t rank, int64_t grain) {
                    if (e < begin || e >= end) return;
                    for (int64_t i = counts.of(rank, grain, e); i > 0; --i)
                        rows.push_back(static_cast<int32_t>(next[rank]++));
                },
                [&] { leaves.push_back(std::ssize(rows)); });
        offsets.push_back(std::ssize(rows));
    }
    const int64_t width = counts.experts() > 0 ? std::ssize(leaves) / counts.experts() : 1;
    return {.expert_offsets = tensor_of(exec, offsets),
            .leaves = tensor_of(exec, leaves).view({counts.experts(), width}),
            .slot_token = tensor_of(exec, rows)};
}

}  // namespace

std::vector<SlotPart> part_slots(const Exec& exec, const TokenMap& map,
                                 std::span<const int64_t> leaves) {
    const HostValues<int64_t> ends(exec, map.leaves);
    const int64_t experts = map.leaves.rows(), width = map.leaves.row_size();
    std::vector<SlotPart> parts;
    int64_t leaf = 0;
    for (const int64_t count : leaves) {
        std::vector<int32_t> slots;
        std::vector<int64_t> of_part;
        for (int64_t e = 0; e < experts; ++e) {
            const int64_t* const of_expert = ends.span().data() + e * width + leaf;
            const int64_t before = std::ssize(slots) - of_expert[0];
            for (int64_t i = 0; i <= count; ++i) of_part.push_back(before + of_expert[i]);
            for (int64_t slot = of_expert[0]; slot < of_expert[count]; ++slot)
                slots.push_back(static_cast<int32_t>(slot));
        }
        leaf += count;
        SlotPart& part = parts.emplace_back();
        part.slots = tensor_of(exec, slots);
        part.rows = exec.empty({std::ssize(slots)}, DType::i32);
        ops::gather_rows(exec, map.slot_token, part.slots, part.rows);
        part.leaves = tensor_of(exec, of_part).view({experts, count + 1});
    }
    return parts;
}

std::vector<int64_t> cut_waves(std::span<const int64_t> rows_of_experts, int64_t limit) {
    std::vector<int64_t> first{0};
    int64_t rows = 0;
    for (int64_t e = 0; e < std::ssize(rows_of_experts); ++e) {
        const int64_t more = rows_of_experts[static_cast<size_t>(e)];
        if (rows > 0 && more > 0 && rows + more > limit) {
            first.push_back(e);
            rows = 0;
        }
        rows += more;
    }
    first.push_back(std::ssize(rows_of_experts));
    return first;
}

TokenDispatcher::TokenDispatcher(Communicator& ranks, int64_t experts, int tensor, int64_t rows)
    : ranks_(ranks), tensor_(tensor), rows_(rows) {
    for (int rank = 0; rank <= ranks.size(); ++rank)
        first_.push_back(experts * rank / ranks.size());
}

std::vector<std::vector<int64_t>> TokenDispatcher::cut(
    std::span<const int64_t> rows_of_experts) const {
    const int64_t rows =
        std::accumulate(rows_of_experts.begin(), rows_of_experts.end(), int64_t{0});
    const int64_t limit = this->limit(rows_, (rows + ranks_.size() - 1) / ranks_.size());
    std::vector<std::vector<int64_t>> waves;
    size_t most = 0;
    for (size_t rank = 0; rank + 1 < first_.size(); ++rank) {
        const auto begin = static_cast<size_t>(first_[rank]);
        const auto count = static_cast<size_t>(first_[rank + 1]) - begin;
        waves.push_back(cut_waves(rows_of_experts.subspan(begin, count), limit));
        most = std::max(most, waves.back().size());
    }
    // Those that need fewer take part in the others without rows.
    for (std::vector<int64_t>& first : waves) first.resize(most, first.back());
    return waves;
}

// Of each rank its grains, and over all ranks the rows of each expert.
TokenDispatcher::Totals TokenDispatcher::gather_totals(const TokenMap& map, int64_t grains) const {
    const auto experts = static_cast<size_t>(first_.back());
    const auto ranks = static_cast<size_t>(ranks_.size());
    std::vector<int64_t> own{grains};
    const HostValues<int64_t> offsets(ranks_.exec(), map.expert_offsets);
    for (size_t e = 0; e < experts; ++e) own.push_back(offsets[e + 1] - offsets[e]);
    std::vector<int64_t> all(ranks * own.size());
    ranks_.all_gather(bytes_of(own), std::as_writable_bytes(std::span(all)));
    Totals totals{{}, std::vector<int64_t>(experts)};
    for (size_t rank = 0; rank < ranks; ++rank) {
        const int64_t* const of_rank = &all[rank * own.size()];
        totals.grains.push_back(of_rank[0]);
        for (size_t e = 0; e < experts; ++e) totals.rows_of_experts[e] += of_rank[1 + e];
    }
    return totals;
}

// Rows of each (rank, its grain, expert here).
std::vector<int64_t> TokenDispatcher::gather_counts(const TokenMap& map,
                                                    std::span<const int64_t> grains) const {
    const auto own = static_cast<size_t>(ranks_.rank());
    const int64_t own_grains = grains[own], here = first_[own + 1] - first_[own];
    const HostValues<int64_t> leaves(ranks_.exec(), map.leaves);  // [E, own_grains + 1]
    std::vector<int64_t> counts, sent, received;                  // sent and received: bytes
    for (size_t rank = 0; rank < grains.size(); ++rank) {
        const auto begin = static_cast<size_t>(first_[rank]);
        const auto end = static_cast<size_t>(first_[rank + 1]);
        for (size_t grain = 0; grain < static_cast<size_t>(own_grains); ++grain)
            for (size_t e = begin; e < end; ++e) {
                const size_t leaf = e * static_cast<size_t>(own_grains + 1) + grain;
                counts.push_back(leaves[leaf + 1] - leaves[leaf]);
            }
        sent.push_back(8 * own_grains * static_cast<int64_t>(end - begin));
        received.push_back(8 * grains[rank] * here);
    }
    std::vector<int64_t> theirs(
        static_cast<size_t>(std::accumulate(received.begin(), received.end(), int64_t{0}) / 8));
    ranks_.all_to_all_v(bytes_of(counts), sent, std::as_writable_bytes(std::span(theirs)),
                        received);
    return theirs;
}

std::shared_ptr<const TokenExchanges> TokenDispatcher::plan(const TokenMap& map, int64_t grains,
                                                            ExpertSums sums) const {
    const auto own = static_cast<size_t>(ranks_.rank());
    const Totals totals = gather_totals(map, grains);
    const Counts counts(totals.grains, gather_counts(map, totals.grains),
                        first_[own + 1] - first_[own], tensor_);
    const std::vector<std::vector<int64_t>> waves = cut(totals.rows_of_experts);
    const HostValues<int64_t> offsets(ranks_.exec(), map.expert_offsets);
    auto exchanges = std::make_shared<TokenExchanges>(waves[own].size() - 1);
    for (size_t wave = 0; wave < exchanges->size(); ++wave) {
        TokenExchange& exchange = (*exchanges)[wave];
        exchange.only = exchanges->size() == 1;
        exchange.begin = waves[own][wave];
        exchange.end = waves[own][wave + 1];
        std::vector<int32_t> slots;
        for (size_t rank = 0; rank < waves.size(); ++rank) {
            const auto expert = [&](size_t at) {
                return static_cast<size_t>(first_[rank] + waves[rank][at]);
            };
            const int64_t begin = offsets[expert(wave)], end = offsets[expert(wave + 1)];
            exchange.sent.push_back(end - begin);
            for (int64_t slot = begin; slot < end && !exchange.only; ++slot)
                slots.push_back(static_cast<int32_t>(slot));
            exchange.received.push_back(counts.of_experts(rank, exchange.begin, exchange.end));
        }
        if (!exchange.only) exchange.slots = tensor_of(ranks_.exec(), slots);
        exchange.experts = map_experts(ranks_.exec(), counts, exchange.begin, exchange.end);
        if (sums != ExpertSums::together)
            exchange.parts = part_slots(ranks_.exec(), exchange.experts, counts.leaves(sums));
    }
    return exchanges;
}

TokenDispatcher::Move TokenDispatcher::move(const Tensor& from, std::span<const int64_t> sent,
                                            std::span<const int64_t> received) const {
    const int64_t rows = std::accumulate(received.begin(), received.end(), int64_t{0});
    FUCINA_CHECK(
        from.contiguous() && from.rows() == std::accumulate(sent.begin(), sent.end(), int64_t{0}),
        "rows to exchange are ", from.describe());
    const int64_t width = from.dim(1), row_bytes = width * size_of(from.dtype());
    Tensor to = ranks_.exec().empty({rows, width}, from.dtype());
    std::vector<int64_t> out, in;
    for (size_t rank = 0; rank < sent.size(); ++rank) {
        out.push_back(sent[rank] * row_bytes);
        in.push_back(received[rank] * row_bytes);
    }
    auto request = ranks_.start_all_to_all_v(from.memory(), out, to.memory(), in);
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
