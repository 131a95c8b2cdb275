#include "parallel/grad_reducer.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "kernels/error.h"
#include "kernels/grid_sum.h"
#include "parallel/box_copy.h"
#include "parallel/tree_sum.h"

namespace fucina {
namespace {

// Part `part` of a box, cut along its longest dimension.
Box part_of(Box box, int part, int parts) {
    const auto dim = static_cast<size_t>(std::ranges::max_element(box.extent) - box.extent.begin());
    const int64_t extent = box.extent[dim], begin = extent * part / parts;
    box.offset[dim] += begin;
    box.extent[dim] = extent * (part + 1) / parts - begin;
    return box;
}

// Of the gradient on a rank, as if all had as much: they must cut buckets alike.
int64_t even_bytes(const MeshShape& mesh, const Parameter& parameter) {
    const Layout& layout = parameter.layout;
    const int ranks = layout.expert >= 0 ? mesh.expert : layout.tensor >= 0 ? mesh.tensor : 1;
    return (4 * whole_box(parameter.shape).size() + ranks - 1) / ranks;
}

Tensor gradient(const Exec& exec, std::span<const int64_t> shape) {
    MemoryPurpose purpose("gradients");
    return exec.empty(shape, DType::f32);
}

// From the grid to fp32.
Tensor rounded(const Exec& exec, const Tensor& integers, const char* where) {
    MemoryPurpose purpose(where);
    Tensor sum = exec.empty(integers.shape(), DType::f32);
    ops::round_from_grid(exec, integers, sum);
    return sum;
}

}  // namespace

GradReducer::GradReducer(const Mesh& mesh, std::span<Parameter* const> parameters,
                         const Options& options)
    : exec_(mesh.exec()),
      experts_(mesh, true),
      others_(mesh, false),
      shards_(options.shards),
      integers_(options.integers),
      bucket_bytes_(options.bucket_bytes) {
    std::vector<int64_t> bytes;  // of each sum
    for (Parameter* parameter : parameters) {
        if (!parameter->trained) continue;
        first_[parameter] = sums_.size();
        for (size_t use = 0; use < parameter->grads.size(); ++use) {
            sums_.push_back({.parameter = parameter, .use = use});
            bytes.push_back(element() / 4 * even_bytes(mesh.shape(), *parameter));
        }
    }
    const int64_t all = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
    bucket_bytes_ = std::min(bucket_bytes_, std::max(all / kBuckets, int64_t{4096}));
    make_buckets(bytes);
}

// A bucket of experts and one of all others are filled side by side.
void GradReducer::make_buckets(const std::vector<int64_t>& bytes) {
    struct Open {
        Bucket bucket;
        int64_t bytes = 0;
    };
    std::array<Open, 2> open;
    open[1].bucket.experts = true;
    const auto close = [&](Open& full) {
        if (full.bucket.pieces.empty()) return;
        add_bucket(full.bucket);
        full = {{.experts = full.bucket.experts}};
    };
    for (size_t i = sums_.size(); i-- > 0;) {
        Sum& sum = sums_[i];
        const bool experts = Holders::is_expert(*sum.parameter);
        if (holders(experts).size() == 1) continue;  // there is nothing to exchange
        if (!sum.parameter->makes(sum.use)) continue;
        sum.parts = static_cast<int>((bytes[i] + bucket_bytes_ - 1) / bucket_bytes_);
        for (int part = 0; part < sum.parts; ++part) {
            Open& filled = open[experts ? 1 : 0];
            const int64_t more = bytes[i] / sum.parts;
            if (filled.bytes + more > bucket_bytes_) close(filled);
            filled.bucket.pieces.push_back({i, part, sum.parts});
            filled.bytes += more;
        }
    }
    close(open[1]);
    close(open[0]);
}

void GradReducer::add_bucket(Bucket bucket) {
    int64_t sent = 0, most = 0;
    for (int place = 0; place < holders(bucket.experts).size(); ++place) {
        int64_t elements = 0;
        for (const Piece& piece : bucket.pieces) elements += box(piece, place).size();
        bucket.elements.push_back(elements);
        sent += elements;
        most = std::max(most, elements);
    }
    most_sent_ = std::max({most_sent_, sent, most});
    most_own_ =
        std::max(most_own_, bucket.elements[static_cast<size_t>(holders(bucket.experts).here())]);
    most_received_ = std::max(most_received_, most * std::ssize(bucket.elements));
    buckets_.push_back(std::move(bucket));
}

Box GradReducer::box(const Piece& piece, int place) const {
    const Parameter& parameter = *sums_[piece.sum].parameter;
    const bool experts = Holders::is_expert(parameter);
    return part_of(holders(experts).owned(parameter, place), piece.part, piece.parts);
}

void GradReducer::begin(Round round) {
    FUCINA_CHECK(under_way_.empty(), under_way_.size(), " buckets are under way");
    round_ = std::move(round);
    next_ = 0;
    for (Sum& sum : sums_) {
        sum.added = false;
        sum.sent = sum.received = 0;
    }
}

void GradReducer::add(Parameter& parameter, size_t use, Tensor own) {
    Sum& sum = sums_[first_.at(&parameter) + use];
    sum.added = true;
    if (holders(Holders::is_expert(parameter)).size() == 1) {
        if (integers_ && own.defined()) own = rounded(exec_, own, "gradients");
        round_.done(parameter, use, std::move(own));
        return;
    }
    FUCINA_CHECK(!own.defined() || own.contiguous(), "gradients are contiguous");
    sum.own = std::move(own);
    if (round_.early) start_ready();
}

bool GradReducer::ready(const Bucket& bucket) const {
    return std::ranges::all_of(bucket.pieces,
                               [&](const Piece& piece) { return sums_[piece.sum].added; });
}

void GradReducer::start_ready() {
    for (; next_ < buckets_.size(); ++next_) {
        const Bucket& bucket = buckets_[next_];
        if (!takes_part(bucket.experts)) continue;
        if (!ready(bucket)) return;
        if (under_way_.size() == kUnderWay) complete();
        start(bucket);
    }
}

void GradReducer::finish() {
    for (Sum& sum : sums_) {
        const bool experts = Holders::is_expert(*sum.parameter);
        if (!takes_part(experts) || sum.added || !sum.parameter->makes(sum.use)) continue;
        add(*sum.parameter, sum.use, {});
    }
    start_ready();
    while (!under_way_.empty()) complete();
    round_.done = nullptr;
}

void GradReducer::start(const Bucket& bucket) {
    if (free_.empty()) {
        MemoryPurpose purpose("communication");
        const DType type = integers_ ? DType::i64 : DType::f32;
        free_.emplace_back(exec_.empty({most_sent_}, type), exec_.empty({most_received_}, type));
    }
    auto [sent, received] = std::move(free_.back());
    free_.pop_back();
    std::vector<int64_t> to, from(bucket.elements.size());
    int64_t at = 0;
    for (size_t place = 0; place < bucket.elements.size(); ++place) {
        to.push_back(element() * bucket.elements[place]);
        for (const Piece& piece : bucket.pieces) {
            const Box part = box(piece, static_cast<int>(place));
            const Sum& sum = sums_[piece.sum];
            if (sum.own.defined())
                copy_shared(exec_, sum.parameter->box, sum.own, part,
                            sent.slice(at, at + part.size()));
            at += part.size();
        }
    }
    for (const Piece& piece : bucket.pieces) {
        Sum& sum = sums_[piece.sum];
        if (++sum.sent == sum.parts && (shards_ || integers_)) sum.own = {};
    }
    const Holders& holders = this->holders(bucket.experts);
    const int64_t here = bucket.elements[static_cast<size_t>(holders.here())];
    std::ranges::fill(from, element() * here);
    std::unique_ptr<Request> request = holders.ranks().start_all_to_all_v(
        sent.slice(0, at).memory(), to, received.slice(0, here * holders.size()).memory(), from);
    under_way_.push_back({&bucket, std::move(sent), std::move(received), std::move(request)});
}

// The oldest exchange.
void GradReducer::complete() {
    Exchange exchange = std::move(under_way_.front());
    under_way_.pop_front();
    exchange.request->wait();
    const Bucket& bucket = *exchange.bucket;
    const Tensor sum = sum_of_ranks(bucket, exchange.received);
    if (shards_)
        keep(bucket, sum);
    else
        gather(exchange, sum);
    free_.emplace_back(std::move(exchange.sent), std::move(exchange.received));
    for (const Piece& piece : bucket.pieces) arrived(piece);
}

// fp32, of what we own of the bucket.
Tensor GradReducer::sum_of_ranks(const Bucket& bucket, const Tensor& received) const {
    const Holders& holders = this->holders(bucket.experts);
    const std::vector<bool>& held = bucket.experts ? round_.experts_held : round_.others_held;
    FUCINA_CHECK(std::ssize(held) == holders.size(), held.size(), " holders, ", holders.size(),
                 " ranks");
    const int64_t here = bucket.elements[static_cast<size_t>(holders.here())];
    std::vector<Tensor> slices(held.size());
    for (size_t place = 0; place < held.size(); ++place) {
        const auto at = static_cast<int64_t>(place) * here;
        if (held[place]) slices[place] = received.slice(at, at + here);
    }
    if (!integers_) {
        const Tensor sum = tree_sum(exec_, slices);
        FUCINA_CHECK(sum.defined(), "no rank holds a sum");
        return sum;
    }
    std::erase_if(slices, [](const Tensor& slice) { return !slice.defined(); });
    FUCINA_CHECK(!slices.empty(), "no rank holds a sum");
    for (size_t i = 1; i < slices.size(); ++i) ops::add_integers(exec_, slices[0], slices[i]);
    return rounded(exec_, slices[0], "communication");
}

void GradReducer::keep(const Bucket& bucket, const Tensor& sum) {
    const Holders& holders = this->holders(bucket.experts);
    int64_t at = 0;
    for (const Piece& piece : bucket.pieces) {
        Sum& to = sums_[piece.sum];
        const Box owned = holders.owned(*to.parameter, holders.here());
        const Box part = box(piece, holders.here());
        if (!to.result.defined()) to.result = gradient(exec_, owned.extent);
        copy_shared(exec_, part, sum.slice(at, at + part.size()), owned, to.result);
        at += part.size();
    }
}

// Everyone's sums go to all; blocks are of equal size, and what is beyond a sum is not read.
void GradReducer::gather(Exchange& exchange, const Tensor& sum) {
    const Bucket& bucket = *exchange.bucket;
    const Holders& holders = this->holders(bucket.experts);
    const int64_t most = *std::ranges::max_element(bucket.elements);
    // fp32, in the room of what was sent and received.
    const Tensor sent = exchange.sent.as(DType::f32).slice(0, most);
    const Tensor received = exchange.received.as(DType::f32).slice(0, most * holders.size());
    exec_.copy(sum, sent.slice(0, sum.size()));
    holders.ranks().all_gather(sent.memory(), received.memory());
    for (const Piece& piece : bucket.pieces) {
        Sum& to = sums_[piece.sum];
        if (!to.result.defined() && !integers_) to.result = to.own;
        if (!to.result.defined()) to.result = gradient(exec_, to.parameter->box.extent);
    }
    for (int place = 0; place < holders.size(); ++place) {
        int64_t at = most * place;
        for (const Piece& piece : bucket.pieces) {
            const Sum& to = sums_[piece.sum];
            const Box part = box(piece, place);
            copy_shared(exec_, part, received.slice(at, at + part.size()), to.parameter->box,
                        to.result);
            at += part.size();
        }
    }
}

void GradReducer::arrived(const Piece& piece) {
    Sum& sum = sums_[piece.sum];
    if (++sum.received < sum.parts) return;
    sum.own = {};
    round_.done(*sum.parameter, sum.use, std::exchange(sum.result, {}));
}

}  // namespace fucina
