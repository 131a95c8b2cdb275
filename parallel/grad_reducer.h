// GradReducer: the sum of gradients over the ranks that hold the same weights, in the order of the
// grain tree.
//
// Every rank holds the sum of one node of the tree over ranks, or nothing (BatchPlan). Of a bucket
// of gradients each rank sends every other what that one owns (all-to-all), and adds what it
// receives along the tree over ranks. It keeps that alone, or all of them gather the whole.
//
// Buckets are runs of the parameters from the last to the first, about as backward makes their
// gradients, and they are exchanged in that order on all ranks, whatever the order in which their
// gradients are done.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "parallel/holders.h"

namespace fucina {

class GradReducer {
  public:
    static constexpr int64_t kBucketBytes = int64_t{16} << 20;  // at most
    static constexpr int64_t kBuckets = 8;  // at least, of a model that has as many pages
    static constexpr size_t kUnderWay = 2;  // buckets at most

    struct Options {
        bool shards = false;    // what we own is all that is left of a sum
        bool integers = false;  // our sums are i64 on a grid (kernels/grid_sum.h), and no tree's
        int64_t bucket_bytes = kBucketBytes;
    };
    // Hears of a sum over ranks: fp32 of the parameter's box, or of our owned_box.
    using Done = std::function<void(Parameter& parameter, size_t use, Tensor sum)>;

    // parameters: those that are trained, the same on all ranks; they and the mesh must outlive
    // this.
    GradReducer(const Mesh& mesh, std::span<Parameter* const> parameters, const Options& options);

    // Some or all of the sums of a step.
    struct Round {
        bool experts = false, others = false;
        // Whether the rank at each place among those that hold the same has sums.
        std::vector<bool> experts_held, others_held;
        // All ranks add the same gradients in the same order, with the same calls between: buckets
        // are exchanged as soon as they are full. Else at the end.
        bool early = false;
        Done done;
    };
    // Collective over all ranks, as is add(), between begin() and finish(), if the round is early.
    void begin(Round round);
    // Our sum, fp32 or i64 of the parameter's box and contiguous; undefined where we have none.
    void add(Parameter& parameter, size_t use, Tensor sum);
    // Whatever was not added counts as added without a sum.
    void finish();

    int64_t bucket_bytes() const { return bucket_bytes_; }
    // Bytes that exchanges work in.
    int64_t bytes() const {
        const auto under_way = static_cast<int64_t>(kUnderWay);
        return under_way * element() * (most_sent_ + most_received_) +
               (integers_ ? 4 * most_own_ : 0);
    }

  private:
    // Of a gradient too large for one bucket, each bucket takes a part.
    struct Piece {
        size_t sum;  // number of (parameter, use)
        int part, parts;
    };
    struct Bucket {
        bool experts = false;
        std::vector<Piece> pieces;
        std::vector<int64_t> elements;  // that the rank at each place owns
    };
    struct Sum {
        Parameter* parameter;
        size_t use;
        int parts = 1;
        bool added = false;
        int sent = 0, received = 0;  // parts
        Tensor own, result;
    };
    struct Exchange {
        const Bucket* bucket;
        Tensor sent, received;
        std::unique_ptr<Request> request;
    };

    int64_t element() const { return integers_ ? 8 : 4; }  // bytes, of our sums
    Tensor sum_of_ranks(const Bucket& bucket, const Tensor& received) const;
    void make_buckets(const std::vector<int64_t>& bytes);
    void add_bucket(Bucket bucket);
    Box box(const Piece& piece, int place) const;
    bool takes_part(bool experts) const { return experts ? round_.experts : round_.others; }
    bool ready(const Bucket& bucket) const;
    void start_ready();
    void start(const Bucket& bucket);
    void complete();
    void keep(const Bucket& bucket, const Tensor& sum);
    void gather(Exchange& exchange, const Tensor& sum);
    void arrived(const Piece& piece);
    const Holders& holders(bool experts) const { return experts ? experts_ : others_; }

    const Exec exec_;
    const Holders experts_, others_;
    const bool shards_, integers_;
    int64_t bucket_bytes_;
    std::vector<Sum> sums_;
    std::unordered_map<const Parameter*, size_t> first_;  // number of a parameter's first use
    std::vector<Bucket> buckets_;
    int64_t most_sent_ = 0, most_received_ = 0, most_own_ = 0;  // elements

    Round round_;
    size_t next_ = 0;  // bucket to start
    std::deque<Exchange> under_way_;
    std::vector<std::pair<Tensor, Tensor>> free_;  // buffers
};

}  // namespace fucina
