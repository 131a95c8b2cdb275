// WeightGatherer: after ranks have updated what they own of the weights, gives all of it to all
// that hold it.
#pragma once
#include <span>
#include <vector>

#include "parallel/holders.h"

namespace fucina {

class WeightGatherer {
  public:
    static constexpr int64_t kBucketBytes = int64_t{16} << 20;  // of a rank, about

    // parameters: those that are updated, of which those that are shards stay apart; they and the
    // mesh must outlive this.
    WeightGatherer(const Mesh& mesh, std::span<Parameter* const> parameters,
                   int64_t bucket_bytes = kBucketBytes);

    // Collective. Every rank's owned_box of the values goes to the others that hold it.
    void gather() const;

    // Bytes that it works in.
    int64_t bytes() const { return (largest_ + received_) * 4; }

  private:
    // Parameters that travel together.
    struct Bucket {
        bool experts;
        std::vector<Parameter*> parameters;
        int64_t most = 0;  // elements that a rank owns of them, at most
    };
    void gather(const Bucket& bucket) const;

    const Mesh& mesh_;
    std::vector<Bucket> buckets_;
    int64_t largest_ = 0, received_ = 0;  // elements of a bucket, and of all ranks'
};

}  // namespace fucina
