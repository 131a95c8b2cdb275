#include "parallel/row_shares.h"

#include <algorithm>

#include "kernels/error.h"
#include "kernels/moe.h"
#include "kernels/optimizer.h"
#include "parallel/tree_sum.h"

namespace fucina {
RowShares::RowShares(Communicator& ranks, std::span<const int64_t> grain_offsets)
    : ranks_(ranks), rows_(grain_offsets.back()), own_offsets_{0} {
    owners_.resize(static_cast<size_t>(rows_));
    for (int rank = 0; rank < ranks.size(); ++rank) {
        std::vector<Piece> pieces;
        int64_t count = 0;
        for (size_t grain = 0; grain + 1 < grain_offsets.size(); ++grain) {
            const int64_t first = grain_offsets[grain], rows = grain_offsets[grain + 1] - first;
            pieces.push_back(
                {first + rows * rank / ranks.size(), first + rows * (rank + 1) / ranks.size()});
            const auto [begin, end] = pieces.back();
            count += end - begin;
            if (rank == ranks.rank()) own_offsets_.push_back(count);
            std::fill(owners_.begin() + begin, owners_.begin() + end, rank);
        }
        counts_.push_back(count);
        pieces_.push_back(std::move(pieces));
    }
}

Tensor RowShares::own(const Tensor& whole) const {
    const std::vector<Piece>& pieces = pieces_[static_cast<size_t>(rank())];
    if (pieces.size() == 1) return whole.slice(pieces[0].begin, pieces[0].end);
    Tensor own = ranks_.exec().empty({own_rows(), whole.dim(1)}, whole.dtype());
    for (size_t grain = 0; grain < pieces.size(); ++grain)
        ranks_.exec().copy(whole.slice(pieces[grain].begin, pieces[grain].end),
                           own.slice(own_offsets_[grain], own_offsets_[grain + 1]));
    return own;
}

void RowShares::gather(const Tensor& own, const Tensor& all) const {
    ranks_.all_gather(own.memory(), all.memory());
}

Tensor RowShares::all(const Tensor& own) const {
    FUCINA_CHECK(own.rows() == own_rows(), "own rows are ", own_rows(), ", not ", own.describe());
    const int64_t most = *std::ranges::max_element(counts_);
    Tensor whole = ranks_.exec().empty({rows_, own.dim(1)}, own.dtype());
    const bool even = rows_ == most * ranks();
    Tensor sent = own;
    if (!even || !own.contiguous()) {  // what is beyond our rows travels too
        sent = ranks_.exec().empty({most, own.dim(1)}, own.dtype());
        ranks_.exec().zero(sent);
        ranks_.exec().copy(own, sent.slice(0, own.rows()));
    }
    if (even && own_offsets_.size() == 2) {
        ranks_.all_gather(sent.memory(), whole.memory());
        return whole;
    }
    const Tensor received = ranks_.exec().empty({ranks() * most, own.dim(1)}, own.dtype());
    ranks_.all_gather(sent.memory(), received.memory());
    for (int rank = 0; rank < ranks(); ++rank) {
        int64_t row = rank * most;
        for (const auto [begin, end] : pieces_[static_cast<size_t>(rank)]) {
            ranks_.exec().copy(received.slice(row, row + end - begin), whole.slice(begin, end));
            row += end - begin;
        }
    }
    return whole;
}

Tensor RowShares::collect(std::span<const int> sources, const Tensor& given) const {
    const int64_t width = given.dim(1), row_bytes = width * size_of(given.dtype());
    const auto count = static_cast<size_t>(ranks());
    std::vector<int64_t> sent(count), received(count);
    for (size_t row = 0; row < sources.size(); ++row) {
        if (sources[row] == rank()) sent[static_cast<size_t>(owners_[row])] += row_bytes;
        if (owners_[row] == rank()) received[static_cast<size_t>(sources[row])] += row_bytes;
    }
    const Tensor arrived = ranks_.exec().empty({own_rows(), width}, given.dtype());
    ranks_.all_to_all_v(given.memory(), sent, arrived.memory(), received);
    // Of each source the row that arrived and comes next.
    std::vector<int32_t> next{0}, index;
    for (const int64_t bytes : received)
        next.push_back(next.back() + static_cast<int32_t>(bytes / row_bytes));
    for (size_t row = 0; row < sources.size(); ++row)
        if (owners_[row] == rank()) index.push_back(next[static_cast<size_t>(sources[row])]++);
    Tensor own = ranks_.exec().empty({own_rows(), width}, given.dtype());
    ops::gather_rows(ranks_.exec(), arrived, tensor_of(ranks_.exec(), index), own);
    return own;
}

Tensor RowShares::sum(const Tensor& partial, DType type) const {
    FUCINA_CHECK(partial.dtype() == DType::f32 && partial.rows() == rows_ && partial.contiguous(),
                 "partial sums of ", rows_, " rows are ", partial.describe());
    const int64_t width = partial.dim(1);
    Tensor sent = partial;
    if (own_offsets_.size() != 2) {
        sent = ranks_.exec().empty({rows_, width}, DType::f32);
        int64_t row = 0;
        for (const std::vector<Piece>& pieces : pieces_)
            for (const auto [begin, end] : pieces) {
                ranks_.exec().copy(partial.slice(begin, end), sent.slice(row, row + end - begin));
                row += end - begin;
            }
    }
    std::vector<int64_t> out, in(static_cast<size_t>(ranks()), own_rows() * width * 4);
    for (const int64_t count : counts_) out.push_back(count * width * 4);
    const Tensor received = ranks_.exec().empty({ranks() * own_rows(), width}, DType::f32);
    ranks_.all_to_all_v(sent.memory(), out, received.memory(), in);
    std::vector<Tensor> addends;
    for (int rank = 0; rank < ranks(); ++rank)
        addends.push_back(received.slice(rank * own_rows(), (rank + 1) * own_rows()));
    const Tensor sum = tree_sum(ranks_.exec(), addends);
    Tensor rounded = ranks_.exec().empty({own_rows(), width}, type);
    ops::cast(ranks_.exec(), sum, rounded);
    return rounded;
}

}  // namespace fucina
