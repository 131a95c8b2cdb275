// TokenDispatcher: takes rows of tokens to the ranks that hold their experts, and back. Nothing is
// dropped. Each way is the other's backward.
//
// A rank whose experts get far more rows than their share takes them in waves, of some experts
// each, so that what it holds at a time is bounded however uneven the routing is.
//
// All calls are collective over the ranks that share the experts out among themselves; a rank
// without tokens, or without rows for its experts, takes part. Tensor-parallel ranks, neighbours
// among them, each send their pieces of the same grains (parallel/row_shares.h): they are one
// source.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/moe.h"
#include "parallel/communicator.h"

namespace fucina {

// Those of a TokenMap's slots whose gradients are a sum of their own.
struct SlotPart {
    Tensor slots, rows;  // i32, in the order of experts: the map's slots, and their rows
    Tensor leaves;       // i64 [experts, its leaves + 1], as GroupedWgrad's, of the part's slots
};
// Parts of so many leaves each, counted from the first of every expert's tree.
std::vector<SlotPart> part_slots(const Exec& exec, const TokenMap& map,
                                 std::span<const int64_t> leaves);

enum class ExpertSums { together, by_source, by_grain };

// Where the slots of one pass go in one wave. Rows are received in the order of ranks, and of each
// rank in the order of its slots.
struct TokenExchange {
    std::vector<int64_t> sent, received;  // [ranks] rows to and from each
    bool only = false;           // there are no other waves: all slots are sent, in their order
    Tensor slots;                // i32, else those that are sent, in this order
    int64_t begin = 0, end = 0;  // experts here that the wave is of; the others have no rows
    // Of the experts here: expert_offsets and leaves, over the grains of all sources in their
    // order, and slot_token, the row received that a slot is. The rest is undefined.
    TokenMap experts;
    // Of each source, or of each grain of all sources; empty where gradients of all are one sum.
    std::vector<SlotPart> parts;

    int64_t rows() const { return experts.slots(); }
};
// At least one; as many on every rank.
using TokenExchanges = std::vector<TokenExchange>;

// First expert of each wave, and the end: as many experts in a row as have at most `limit` rows
// together; one that has more is a wave of its own.
std::vector<int64_t> cut_waves(std::span<const int64_t> rows_of_experts, int64_t limit);

class TokenDispatcher {
  public:
    // experts: of the whole layer, shared out as box_of does. tensor: ranks that are one source.
    // rows: that a wave has at most, of several experts; 0: twice the mean over ranks, at least
    // kLeastRows.
    TokenDispatcher(Communicator& ranks, int64_t experts, int tensor = 1, int64_t rows = 0);
    static constexpr int64_t kLeastRows = 1024;
    static int64_t limit(int64_t rows, int64_t mean) {
        return rows > 0 ? rows : std::max(kLeastRows, 2 * mean);
    }

    // map: of this rank's tokens, of `grains` grains. sums: what gradients are sums of.
    std::shared_ptr<const TokenExchanges> plan(const TokenMap& map, int64_t grains,
                                               ExpertSums sums) const;
    // Rows on their way.
    class Move {
      public:
        Move(Tensor from, Tensor to, std::unique_ptr<Request> request)
            : from_(std::move(from)), to_(std::move(to)), request_(std::move(request)) {}
        // Those that have come. Once.
        Tensor finish() {
            request_->wait();
            from_ = {};
            return std::move(to_);
        }

      private:
        Tensor from_, to_;
        std::unique_ptr<Request> request_;
    };
    // dispatch() and combine() that go on until finish().
    Move start_dispatch(const TokenExchange& exchange, const Tensor& slots) const;
    Move start_combine(const TokenExchange& exchange, const Tensor& rows) const;
    // slots [sent slots, D] -> [received rows, D]
    Tensor dispatch(const TokenExchange& exchange, const Tensor& slots) const;
    // The way back: [received rows, D] -> [sent slots, D]
    Tensor combine(const TokenExchange& exchange, const Tensor& rows) const;

  private:
    struct Totals {
        std::vector<int64_t> grains, rows_of_experts;
    };
    Totals gather_totals(const TokenMap& map, int64_t grains) const;
    std::vector<int64_t> gather_counts(const TokenMap& map, std::span<const int64_t> grains) const;
    // First experts of each rank's waves, and the end.
    std::vector<std::vector<int64_t>> cut(std::span<const int64_t> rows_of_experts) const;
    Move move(const Tensor& from, std::span<const int64_t> sent,
              std::span<const int64_t> received) const;

    Communicator& ranks_;
    const int tensor_;
    const int64_t rows_;
    std::vector<int64_t> first_;  // [ranks + 1] first expert of each
};

}  // namespace fucina
