// GradReducer: the sum of gradients over data-parallel ranks, in the order of the grain tree.
//
// Every rank holds the sum of one node of the tree over ranks, or nothing (BatchPlan). A bucket is
// exchanged so that each rank owns a slice of it from everyone (all-to-all), adds the slices along
// the tree over ranks, and gives the result to all (all-gather). The owned slice in between is
// where a sharded optimizer would stop.
#pragma once
#include <span>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/parameter.h"

namespace fucina {

class GradReducer {
  public:
    static constexpr int64_t kBucketBytes = int64_t{32} << 20;  // there are two of them

    explicit GradReducer(Communicator& communicator, int64_t bucket_bytes = kBucketBytes);

    // tensors: contiguous fp32, the same shapes on every rank; overwritten with the sum over ranks.
    // holds: of each rank, whether it has a sum; the others contribute nothing, whatever their
    // tensors hold.
    void reduce(std::span<const Tensor> tensors, const std::vector<bool>& holds);

  private:
    void exchange(int64_t elements, const std::vector<bool>& holds);

    Communicator& communicator_;
    int64_t bucket_elements_;
    Tensor bucket_;    // [bucket elements], padded to equal slices
    Tensor received_;  // the owned slice from every rank
};

}  // namespace fucina
