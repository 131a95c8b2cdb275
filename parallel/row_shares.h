// RowShares: the rows of a pass shared out among tensor-parallel ranks: of each grain every rank
// has a piece, as equal as can be, in the order of ranks. A rank's own rows are its pieces, grain
// after grain.
//
// all() and sum() are collective over the ranks, and each is the other's backward.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/tensor.h"
#include "parallel/communicator.h"

namespace fucina {

class RowShares {
  public:
    // grain_offsets [grains + 1]: of all rows. `ranks` must outlive this.
    RowShares(Communicator& ranks, std::span<const int64_t> grain_offsets);

    int ranks() const { return ranks_.size(); }
    int rank() const { return ranks_.rank(); }
    int64_t rows() const { return rows_; }
    int64_t own_rows() const { return own_offsets_.back(); }
    std::span<const int64_t> own_offsets() const { return own_offsets_; }  // [grains + 1]
    // The rank that has a row as its own.
    int owner(int64_t row) const { return owners_[static_cast<size_t>(row)]; }

    // Rows of [T, N] that are this rank's own: a view where there is one grain.
    Tensor own(const Tensor& whole) const;
    // [own rows, N] of every rank to [T, N] on all of them.
    Tensor all(const Tensor& own) const;
    // What every rank has, as much on each, in the order of ranks.
    void gather(const Tensor& own, const Tensor& all) const;
    // fp32 [T, N] of every rank, added along the tree over ranks (kernels/k_cut.h): [own rows, N],
    // rounded once.
    Tensor sum(const Tensor& partial, DType type) const;
    // Own rows, of which row t comes from rank sources[t]. given: what this rank gives, owner after
    // owner, of each in the order of rows. Collective.
    Tensor collect(std::span<const int> sources, const Tensor& given) const;

  private:
    struct Piece {
        int64_t begin, end;
    };
    Communicator& ranks_;
    int64_t rows_;
    std::vector<std::vector<Piece>> pieces_;  // [ranks][grains] of all rows
    std::vector<int64_t> own_offsets_, counts_;
    std::vector<int> owners_;
};

}  // namespace fucina
