// GradReducer: the sum of gradients over data-parallel ranks, in the order of the grain tree.
//
// Every rank holds the sum of one node (share_grains). A bucket is exchanged so that each rank owns
// a slice of it from everyone (all-to-all), adds the slices along the tree over ranks, and gives
// the result to all (all-gather). The owned slice in between is where a sharded optimizer would
// stop.
#pragma once
#include <span>
#include <vector>

#include "kernels/leaf_tree.h"
#include "parallel/communicator.h"
#include "parallel/parameter.h"

namespace fucina {

class GradReducer {
  public:
    static constexpr int64_t kBucketBytes = int64_t{32} << 20;  // there are two of them

    explicit GradReducer(Communicator& communicator, int64_t bucket_bytes = kBucketBytes);

    // tensors: contiguous fp32, the same shapes on every rank; overwritten with the sum over ranks.
    // The same tensors at every call. shares: share_grains(...); ranks without grains contribute
    // nothing, whatever their tensors hold.
    void reduce(std::span<const Tensor> tensors, std::span<const GrainRange> shares);

  private:
    void exchange(int64_t elements, std::span<const GrainRange> shares);

    Communicator& communicator_;
    int64_t bucket_elements_;
    Tensor bucket_;    // [bucket elements], padded to equal slices
    Tensor received_;  // the owned slice from every rank
};

}  // namespace fucina
